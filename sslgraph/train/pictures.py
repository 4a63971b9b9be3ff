"""What each branch sees: a contact sheet of the views of a few images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sslgraph.data.sheet import save_sheet
from sslgraph.method import Method

PICTURES = 8
"""How many images of a batch are drawn."""


@torch.no_grad()
def save_views(path: Path, method: Method, batch: Mapping[str, Tensor]) -> None:
    """Write the images of a batch and every view that the graph makes of them, a row each.

    Args:
        path: A png file.
        method: The method in training mode, clock set.
        batch: At least `image`, uint8 B C H W; the first few are drawn.

    Raises:
        WriteError: The disk is full or refuses.
    """
    few = {name: value[:PICTURES] for name, value in batch.items()}
    ports = [port for port, kind in method.plan.kinds.items() if kind == "image"]
    made = [f"{node}.{name}" for node, name in ports if node in method.nodes]
    views = method.run({}, made, few) if made else {}
    rows = [("batch.image", few["image"])]
    for reference, value in views.items():
        many = len(value) > 1
        rows += [
            (f"{reference}.{number}" if many else reference, _shown(view))
            for number, view in enumerate(value)
        ]
    save_sheet(path, rows)


def _shown(view: Tensor) -> Tensor:
    """B C H W as uint8; what is not in [0, 1], being normalised, is stretched to it."""
    view = view.detach().float()
    low, high = view.min(), view.max()
    if low < 0 or high > 1:
        view = (view - low) / (high - low).clamp(min=1e-6)
    return (view * 255).round().to(torch.uint8)
