"""Node types that break what they declare, one way each, and the graphs that hold them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss
from sslgraph.nodes.losses.pairs import PairLoss
from sslgraph.ports import In, Out
from sslgraph.proving import Result, prove
from sslgraph.spec import Graph
from tests import toys

Nodes = dict[str, dict[str, Any]]


class LeakyStop(Node, use="broken_stop"):
    """Says that it stops gradients."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")
    stops_gradient = True

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


class Hanging(Node, use="broken_hanging"):
    """Subtracts the batch before, which it keeps with its gradient."""

    x = In("embedding", "V B D", at="both")
    y = Out("embedding", "V B D")
    writes = "batch"

    def build(self) -> None:
        self.before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0 if self.before is None else x - self.before

    def write(self, x: Tensor) -> None:
        self.before = x


class Dead(Node, use="broken_dead"):
    """A layer whose shift counts for nothing."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def build(self, D: int) -> None:
        self.layer = nn.Linear(D, D, bias=False)
        self.shift = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + 0 * self.shift
        return y


class ByPlace(Loss, use="broken_by_place"):
    """Weighs images by where they stand in the batch."""

    x = In("embedding", "V B D")

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        return (x.square().sum(-1) * weights).mean()


class FirstView(Loss, use="broken_first_view"):
    """Counts the first view twice."""

    x = In("embedding", "V B D")

    def forward(self, x: Tensor) -> Tensor:
        return x.square().mean() + x[0].square().mean()


class AnyPair(PairLoss, use="broken_any_pair"):
    """Compares each view with each, whatever its list says."""

    prediction = In("embedding", "V B D")
    target = In("embedding", "V' B D")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.stack([(p - t).square().mean() for p in prediction for t in target]).mean()


class NoPair(PairLoss, use="broken_no_pair"):
    """Lists pairs and looks at its views alone."""

    prediction = In("embedding", "V B D")
    target = In("embedding", "V' B D")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.square().mean() + target.square().mean()


class Quarters(Node, use="broken_quarters"):
    """Hides the left half of each image."""

    image = In("image", "V B C H W")
    mask = Out("mask", "V B 4")
    draws = True
    learns = False

    def forward(self, image: Tensor) -> Tensor:
        row = torch.tensor([True, False, True, False], device=image.device)
        return row.expand(*image.shape[:2], 4)

    def evaluate(self, image: Tensor) -> Tensor:
        return torch.zeros(*image.shape[:2], 4, dtype=torch.bool, device=image.device)


class Masked(Node, use="toy_masked"):
    """The mean of the visible pixels, through a layer."""

    image = In("image", "B C H W")
    mask = In("mask", "B G")
    y = Out("embedding", "B 4")

    def build(self, C: int) -> None:
        self.layer = nn.Linear(C, 4)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        side = image.shape[-1] // 2
        grid = mask.view(-1, 2, 2).repeat_interleave(side, 1).repeat_interleave(side, 2)
        y: Tensor = self.layer(self.seen(image, ~grid[:, None]))
        return y

    def seen(self, image: Tensor, visible: Tensor) -> Tensor:
        return (image * visible).mean((-1, -2))


class LeakyMask(Masked, use="broken_mask"):
    """Sees hidden pixels too, a little."""

    def seen(self, image: Tensor, visible: Tensor) -> Tensor:
        return (image * visible).mean((-1, -2)) + 1e-4 * image.mean((-1, -2))


class BlindMask(Masked, use="broken_blind"):
    """Sees the hidden pixels."""

    def seen(self, image: Tensor, visible: Tensor) -> Tensor:
        return (image * ~visible).mean((-1, -2))


class Dice(Node, use="broken_dice"):
    """Noise from the global generator."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Counting(Node, use="broken_counting"):
    """Counts its calls, also those of an evaluation, and shows it."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    calls: Tensor

    def build(self) -> None:
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


class Unsteady(Node, use="broken_unsteady"):
    """Counts evaluations where no state dict sees it."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def build(self) -> None:
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def with_node(use: str, **settings: Any) -> Graph:
    """Two views through a layer and a node of this type, into a loss with negatives."""
    nodes: Nodes = {
        **toys.TWO_VIEWS,
        "odd": {"use": use, "in": "head", **settings},
        "loss": {"use": "nt_xent", "in": "odd"},
    }
    return toys.graph(nodes, outputs={"embedding": "odd"})


def with_loss(use: str, **settings: Any) -> Graph:
    """Two views through a layer into a loss of one input."""
    return toys.graph({**toys.TWO_VIEWS, "loss": {"use": use, "in": "head", **settings}})


def with_pairs(use: str, **settings: Any) -> Graph:
    """Two views through a layer, compared with what a stop lets through of them."""
    return toys.graph(
        {
            **toys.TWO_VIEWS,
            "still": {"use": "stop_grad", "in": "head"},
            "guess": {"use": "toy_scale", "in": "head"},
            "loss": {"use": use, "in": {"prediction": "guess", "target": "still"}, **settings},
        }
    )


def with_mask(use: str) -> Graph:
    """Views of which half is hidden."""
    return toys.graph(
        {
            "views": {"use": "toy_noise", "in": "batch.image"},
            "mask": {"use": "broken_quarters", "in": "views"},
            "encoder": {"use": use, "in": {"image": "views", "mask": "mask"}},
            "loss": {"use": "nt_xent", "in": "encoder"},
        }
    )


def one(graph: Graph, name: str) -> Result:
    """The result of one property."""
    (result,) = prove(graph, [name])
    return result


def failure(graph: Graph, name: str) -> str:
    """What a property that fails says, and the node's place."""
    result = one(graph, name)
    assert result.status == "failed", result
    return result.found


def passes(graph: Graph, name: str) -> str:
    """What a property that holds has found."""
    result = one(graph, name)
    assert result.status == "passed", result
    return result.found
