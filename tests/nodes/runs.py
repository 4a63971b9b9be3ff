"""A small finished run that tests freeze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslgraph.data.source import BadFile
from sslgraph.loading import load
from sslgraph.train import train

SIDE = 32

GRAPH: dict[str, Any] = {
    "sslgraph": 1,
    "name": "teacher",
    "nodes": {
        "views": {
            "use": "augment",
            "in": "batch.image",
            "views": 2,
            "size": SIDE,
            "ops": [{"crop": [0.5, 1.0]}, {"normalize": {"mean": [0.5] * 3, "std": [0.25] * 3}}],
        },
        "encoder": {"use": "encoder", "in": "views", "arch": "test_resnet"},
        "projector": {"use": "projector", "in": "encoder.embedding", "hidden": [8], "out": 4},
        "slow": {"use": "ema", "of": ["encoder", "projector"], "in": "views", "momentum": 0.5},
        "loss": {"use": "nt_xent", "in": "projector", "temperature": {"cosine": [0.5, 0.2]}},
        "follow": {
            "use": "cosine_regression",
            "in": {"prediction": "projector", "target": "slow"},
            "reduce": "mean",
        },
    },
    "minimize": {"loss": 1.0, "follow": 1.0},
    "outputs": {"embedding": "encoder.embedding", "tokens": "encoder.tokens"},
    "train": {"lr": {"peak": 0.01}, "steps": 2, "batch_size": 8},
}


class Pictures:
    """Sixteen noisy pictures without labels."""

    bad: Sequence[BadFile] = ()
    classes: tuple[str, ...] = ()

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (16, 3, SIDE + 4, SIDE + 4)
        self._images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indexes: Sequence[int]) -> Tensor:
        return self._images[list(indexes)]

    def label(self, index: int) -> int | None:
        return None

    def uri(self, index: int) -> str:
        return f"picture/{index}"


def finished_run(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Train the graph for two steps in a folder."""
    train(load(GRAPH, set=changes or {}), Pictures(), out=folder)
    return folder
