"""A toy graph with all that a run must carry over: dropout, batch norm, a schedule, state."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from sslgraph.data.source import BadFile
from sslgraph.loading import load
from sslgraph.nodes.base import Node
from sslgraph.ports import In, Out
from sslgraph.spec import Graph

SIDE = 9


class ToyEncoder(Node, use="toy_train_encoder"):
    """A small network with dropout and batch norm."""

    image = In("image", "B C H W")
    embedding = Out("embedding", "B D")
    sample_axes = {"C": 3, "H": 8, "W": 8}

    def build(self, C: int) -> None:
        self.body = nn.Sequential(
            nn.Conv2d(C, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(1)
        )

    def forward(self, image: Tensor) -> Any:
        return self.body(image)


class ToyTap(Node, use="toy_train_tap"):
    """Passes on what it gets, remembers the mean of what it saw, and fails when told to.

    `bad` says at which of its training calls, counted from 0, it gives NaN or raises.
    """

    x = In("embedding", "V B D")
    seen = In("embedding", "V B D", at="write")
    y = Out("embedding", "V B D")
    sample_axes = {"D": 4}
    writes = "batch"
    bad: ClassVar[dict[int, BaseException | None]] = {}
    calls: ClassVar[int] = 0
    total: Tensor

    def build(self) -> None:
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        call = ToyTap.calls
        ToyTap.calls += 1
        if call not in ToyTap.bad or x.device.type == "meta":
            return x * (1 + 0.01 * self.total)
        error = ToyTap.bad[call]
        if error is not None:
            raise error
        return x * torch.nan

    def evaluate(self, x: Tensor) -> Tensor:
        return x

    def write(self, seen: Tensor) -> None:
        self.total.add_(seen.mean())


class Squares:
    """Thirty noisy pictures in three colours."""

    bad: Sequence[BadFile] = ()

    def __init__(self, labelled: bool = True, seed: int = 0, count: int = 30) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.classes = ("red", "green", "blue") if labelled else ()
        noise = torch.randint(0, 100, (count, 3, SIDE, SIDE), generator=generator)
        for index in range(count):
            noise[index, index % 3] += 150
        self._images = noise.to(torch.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indexes: Sequence[int]) -> Tensor:
        return self._images[list(indexes)]

    def label(self, index: int) -> int | None:
        return index % 3 if self.classes else None

    def uri(self, index: int) -> str:
        return f"square/{index}"


Make = Callable[..., Graph]


@pytest.fixture
def make_graph() -> Iterator[Make]:
    """A function from settings of `train` to a graph; the faults of the last test are gone."""

    def make(**train: Any) -> Graph:
        settings = {
            "optimizer": "adamw",
            "lr": {"peak": 0.01, "warmup": "2 steps"},
            "weight_decay": {"cosine": [0.01, 0.1]},
            "steps": 6,
            "batch_size": 8,
        }
        return load(
            {
                "sslgraph": 1,
                "name": "toy",
                "nodes": {
                    "views": {
                        "use": "augment",
                        "in": "batch.image",
                        "views": 2,
                        "size": 8,
                        "ops": [{"crop": [0.5, 1.0]}, {"flip": 0.5}],
                    },
                    "encoder": {"use": "toy_train_encoder", "in": "views"},
                    "tap": {"use": "toy_train_tap", "in": {"x": "encoder", "seen": "encoder"}},
                    "projector": {"use": "projector", "in": "tap", "hidden": [8], "out": 4},
                    "loss": {
                        "use": "nt_xent",
                        "in": "projector",
                        "temperature": {"cosine": [0.5, 0.2]},
                    },
                },
                "minimize": {"loss": 1.0},
                "outputs": {"embedding": "encoder.embedding"},
                "train": {**settings, **train},
            }
        )

    ToyTap.bad = {}
    ToyTap.calls = 0
    yield make
    ToyTap.bad = {}


@pytest.fixture
def tap() -> type[ToyTap]:
    return ToyTap


@pytest.fixture
def squares() -> type[Squares]:
    return Squares


class Screen:
    """A console that keeps what it was given."""

    def __init__(self, terminal: bool = False) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=terminal, width=200, color_system=None
        )

    @property
    def text(self) -> str:
        return self.file.getvalue()


@pytest.fixture
def screen() -> Screen:
    return Screen()
