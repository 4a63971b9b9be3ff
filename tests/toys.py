"""Small node types and graphs that tests wire; names begin with toy_ and meet no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sslgraph.loading import load
from sslgraph.method import Method, compile_graph
from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss
from sslgraph.ports import In, Out
from sslgraph.schedules import LearnableNumber, Number
from sslgraph.spec import Graph


class Pixels(Node, use="toy_pixels"):
    """Mean and standard deviation of each channel, through a layer."""

    image = In("image", "B C H W")
    mean = Out("embedding", "B out", main=True)
    spread = Out("embedding", "B C")

    class Config(Node.Config):
        out: int = 4
        gain: Number = 1.0

    gain: Tensor

    def build(self, C: int) -> None:
        self.layer = nn.Linear(C, self.config.out)

    def forward(self, image: Tensor) -> Any:
        return self.Outputs(self.layer(image.mean((-1, -2))) * self.gain, image.flatten(2).std(-1))


class Scale(Node, use="toy_scale"):
    """A layer, an optional shift, and a number that may follow the run."""

    x = In("embedding", "... D")
    shift = In("embedding", "... D", optional=True)
    y = Out("embedding", "... D")

    class Config(Node.Config):
        factor: LearnableNumber = 1.0

    factor: Tensor

    def build(self, D: int) -> None:
        self.layer = nn.Linear(D, D)

    def forward(self, x: Tensor, shift: Tensor | None) -> Tensor:
        y: Tensor = self.layer(x) * self.factor
        return y if shift is None else y + shift


class Noise(Node, use="toy_noise"):
    """Views that differ by a fixed pattern of each position."""

    image = In("image", "1 B C H W")
    position = In("index", "1 B", default="batch.index")
    y = Out("image", "views B C H W")
    draws = True

    class Config(Node.Config):
        views: int = 2

    def forward(self, image: Tensor, position: Tensor) -> Tensor:
        shift = torch.sin(position.float())[0, :, None, None, None]
        return torch.stack([image[0] + shift * (v + 1) / 10 for v in range(self.config.views)])

    def evaluate(self, image: Tensor, position: Tensor) -> Tensor:
        return image


class Memory(Node, use="toy_memory"):
    """The last keys, newest last; read before they are written."""

    x = In("embedding", "V B D", at="write")
    items = Out("embedding", "1 size D")
    writes = "batch"
    gathers = {"x": "no_grad"}

    class Config(Node.Config):
        size: int = 6
        width: int = 4

    items_kept: Tensor

    def build(self) -> None:
        self.register_buffer("items_kept", torch.zeros(1, self.config.size, self.config.width))

    def forward(self) -> Tensor:
        return self.items_kept.clone()

    def write(self, x: Tensor) -> None:
        rows = torch.cat([self.items_kept[0], x.flatten(0, 1)])[-self.config.size :]
        self.items_kept.copy_(rows[None])


class Ticks(Node, use="toy_ticks"):
    """How many optimizer steps were done."""

    count = Out("embedding", "1 1 1")
    writes = "step"

    kept: Tensor

    def build(self) -> None:
        self.register_buffer("kept", torch.zeros(1, 1, 1))

    def forward(self) -> Tensor:
        return self.kept.clone()

    def write(self) -> None:
        self.kept.add_(1)


class Pull(Loss, use="toy_pull"):
    """Mean square of the difference of two things, or of one from zero."""

    a = In("embedding", "V B D")
    b = In("embedding", "V B D", optional=True)

    class Config(Node.Config):
        weight: Number = 1.0

    weight: Tensor

    def forward(self, a: Tensor, b: Tensor | None) -> Tensor:
        return (a if b is None else a - b).square().mean() * self.weight


class Far(Loss, use="toy_far"):
    """Mean similarity of an embedding and what a memory holds."""

    a = In("embedding", "V B D")
    items = In("embedding", "1 K D")

    def forward(self, a: Tensor, items: Tensor) -> Tensor:
        return (a @ items[0].T).mean()


class Breaks(Node, use="toy_breaks"):
    """Fails on values, which no check of shapes can see."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "meta" and x.numel() > 0:
            raise RuntimeError("it broke")
        return x


def graph(
    nodes: Mapping[str, Any], minimize: Mapping[str, Any] | None = None, **rest: Any
) -> Graph:
    """A graph of these nodes; `loss` is minimised unless said."""
    wanted = {"loss": 1.0} if minimize is None else minimize
    return load({"sslgraph": 1, "nodes": nodes, "minimize": wanted, **rest})


def compiled(
    nodes: Mapping[str, Any], minimize: Mapping[str, Any] | None = None, **rest: Any
) -> Method:
    """A method of these nodes, in float32."""
    return compile_graph(graph(nodes, minimize, **rest))


def images(batch: int = 5, seed: int = 0) -> Tensor:
    """B 3 8 8, float."""
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


TWO_VIEWS: dict[str, Any] = {
    "views": {"use": "toy_noise", "in": "batch.image"},
    "pixels": {"use": "toy_pixels", "in": "views"},
    "head": {"use": "toy_scale", "in": "pixels"},
    "loss": {"use": "nt_xent", "in": "head"},
}
"""A small method of the usual form."""
