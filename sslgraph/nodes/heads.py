"""Heads: small networks on the last axis. The kind passes through, so tokens stay tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.nodes.transformers import draw_cut_normal
from sslgraph.ports import In, Member, Out, Ports
from sslgraph.train_spec import BatchNormSpec

Activation = Literal["relu", "gelu", "tanh"]
Norm = Literal["batch", "none"]
End = Literal["none", "bn", "bn_scale", "bn_plain", "l2", "relu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Mlp(Node):
    """Linear layers on the last axis, with norm and activation between them."""

    x = In("T=embedding/tokens", "... D")
    y = Out("T", "... out")
    sample = {"hidden": [8], "out": 4}

    class Config(Node.Config):
        """Settings.

        Attributes:
            hidden: Widths of the hidden layers; [] is one linear layer.
            out: Width of the output.
            act: Activation after each hidden layer.
            norm: Norm before each activation.
            end: What follows the last layer: batch norm (`bn`), batch norm with a scale but no
                shift (`bn_scale`), without either (`bn_plain`), the unit sphere (`l2`), or `relu`.
            bias: Whether linear layers have a bias; `hidden`: all but the last one; `last`: that
                one alone.
            init: First weights: a standard deviation of normal ones, or `trunc_normal`, with 0.02
                and cut at one standard deviation (BEiT), with biases of zero; PyTorch's rule if
                absent.
            batch_norm: Whose samples share statistics; the run's rule if absent.
        """

        hidden: list[PositiveInt] = [2048]
        out: PositiveInt = 128
        act: Activation = "relu"
        norm: Norm = "batch"
        end: End = "none"
        bias: bool | Literal["hidden", "last"] = True
        init: PositiveFloat | Literal["trunc_normal"] | None = None
        batch_norm: BatchNormSpec | None = None

    def build(self, D: int) -> None:
        """Make the layers for inputs of width D."""
        config = self.config
        layers: list[nn.Module] = []
        widths = [D, *config.hidden]
        for wide, narrow in pairwise(widths):
            layers.append(nn.Linear(wide, narrow, bias=config.bias in (True, "hidden")))
            if config.norm == "batch":
                layers.append(nn.BatchNorm1d(narrow))
            layers.append(_ACTIVATIONS[config.act]())
        layers.append(nn.Linear(widths[-1], config.out, bias=config.bias in (True, "last")))
        layers += _ending(config.end, config.out)
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                _start(layer, config.init)

    def forward(self, x: Tensor) -> Tensor:
        """The head's output; batch norm sees every leading axis as samples."""
        y: Tensor = self.layers(x.flatten(0, -2))
        if self.config.end == "l2":
            # float16 has no 1e-12: the number of DINOv2's head (dinov2/layers/dino_head.py)
            shortest = 1e-6 if y.dtype == torch.float16 else 1e-12
            y = functional.normalize(y, dim=-1, eps=shortest)
        return y.reshape(*x.shape[:-1], y.shape[-1])


def _start(layer: nn.Linear, init: float | str | None) -> None:
    """Draw first weights as a setting `init` says; PyTorch's stay where it says nothing."""
    if init is None:
        return
    if init == "zero":
        nn.init.zeros_(layer.weight)
    elif init == "trunc_normal":
        draw_cut_normal(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=float(init))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _ending(end: End, width: int) -> list[nn.Module]:
    if end == "relu":
        return [nn.ReLU()]
    if not end.startswith("bn"):
        return []
    norm = nn.BatchNorm1d(width, affine=end != "bn_plain")
    if end == "bn_scale":
        norm.register_parameter("bias", None)
    return [norm]


class Projector(Mlp, use="projector"):
    """MLP into the space that the loss compares (SimCLR, section 2.1)."""


class Predictor(Mlp, use="predictor"):
    """MLP that foretells the other branch's projection (BYOL, section 3.1)."""

    prevents = "asymmetry"


class Linear(Node, use="linear"):
    """One linear layer on the last axis: a classifier, or a guess for each place (BEiT, eq. 1).

    Shapes: x ... D -> y ... out, scores of classes; with `kind: same` numbers that mean what x
    means, such as the features of a patch (MaskFeat, section 3.1).
    """

    x = In("T=embedding/tokens", "... D")
    y = Out("logits", "... out")
    sample = {"out": 6}

    class Config(Node.Config):
        """Settings.

        Attributes:
            out: Width of the output, such as the number of classes.
            bias: Whether a bias is added.
            init: First weights: `zero`; a standard deviation of normal ones; `trunc_normal`, normal
                with 0.02 and cut at one standard deviation (BEiT); PyTorch's rule if absent. With
                any of them the bias begins at zero.
            kind: Whether the output is `logits`, or of the `same` kind as the input, for regression
                losses.
        """

        out: PositiveInt
        bias: bool = True
        init: PositiveFloat | Literal["zero", "trunc_normal"] | None = None
        kind: Literal["logits", "same"] = "logits"

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """The output of the kind that the settings say."""
        declared = cls.declaration
        y = Out("T" if config.kind == "same" else "logits", "... out")
        y.name = "y"
        return Ports(declared.inputs, {"y": y})

    def build(self, D: int) -> None:
        """Make the layer for inputs of width D."""
        config = self.config
        self.layer = nn.Linear(D, config.out, bias=config.bias)
        _start(self.layer, config.init)

    def forward(self, x: Tensor) -> Tensor:
        """Scores or numbers."""
        y: Tensor = self.layer(x)
        return y
