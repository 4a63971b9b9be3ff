"""Visible places: a mask as positions whose number is known before a run."""

from __future__ import annotations

import torch
from torch import Tensor

from sslgraph.nodes.base import Node


def visible_places(node: Node, name: str, mask: Tensor) -> Tensor:
    """The places that an even mask leaves visible, in raster order.

    In a graph their number is known from the node that made the mask, so no shape depends on data
    and a compiled region stays whole. Outside a graph the mask is counted.

    Args:
        node: The node that asks.
        name: Its input, one of `even`.
        mask: ... N bool, true where hidden; or places that were found already, as a node that
            repeats others does for them.

    Returns:
        ... n, int64.

    Raises:
        ValueError: Outside a graph, the mask is ragged.
    """
    if mask.dtype != torch.bool:
        return mask
    count = node.context.kept.get(name)
    return first_visible(mask, _counted(mask, node, name) if count is None else count)


def first_visible(mask: Tensor, count: int) -> Tensor:
    """The first `count` visible places of each image, then hidden ones: ... N bool -> ... count."""
    return mask.to(torch.uint8).argsort(dim=-1, stable=True)[..., :count]


def _counted(mask: Tensor, node: Node, name: str) -> int:
    counts = mask.logical_not().sum(-1)
    fewest, most = int(counts.min()), int(counts.max())
    if fewest != most:
        raise ValueError(
            f"{node.declaration.use}.{name} takes masks that hide as many places in every image, "
            f"got some that leave {fewest} and some that leave {most} visible"
        )
    return fewest
