"""Scores against prototypes: the last layer of clustering and self-distillation heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.ports import Identities, In, Member, Out, Ports

_ROUNDING = 8
"""By how many times the precision of a number the length of a unit row may be off."""

Scale = Literal["fixed", "learned", "unit", "none"]


class Prototypes(Node, use="prototypes"):
    """Score each row against learned prototypes (SwAV, section 3.1; DINO, section 3.1).

    There is no bias: with directions v, lengths g and rows x the logit of prototype k is

    - `fixed`: x . v_k / |v_k|, so of unit rows it is a cosine; g = 1 is not trained
    - `learned`: g_k x . v_k / |v_k| (weight normalisation), g trained from 1
    - `unit`: x . v_k, and after each optimizer step, frozen or not, v_k is put back to length 1
    - `none`: x . v_k, a linear layer

    `v` is K x D and begins as PyTorch begins a linear layer; `g` is K x 1, with two axes, so the
    group `1d` of `no_decay` does not hold it.

    With rows plugged into `weight`, such as the centroids of a `kmeans_bank`, these are the
    prototypes as they come (DeepCluster-v2): the node then has no parameters and no `count`.

    Shapes: x ... D -> y ... count. A DINO head is a `projector` that ends in l2, and this.
    """

    x = In("embedding/tokens", "... D")
    weight = In("embedding", "1 K D", optional=True)
    y = Out("logits", "... count")
    sample = {"count": 6}

    class Config(Node.Config):
        """Settings.

        Attributes:
            count: Number of prototypes; left out where `weight` is plugged.
            scale: How long prototypes are: all of length 1 by division (`fixed`), of learned
                lengths (`learned`), put back to length 1 after each step (`unit`), or free
                (`none`).
        """

        count: PositiveInt | None = None
        scale: Scale = "fixed"

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """Prototypes of its own are as many as `count` says; others come through `weight`."""
        declared = cls.declaration
        x, weight = declared.inputs["x"], declared.inputs["weight"]
        if config.count is not None:
            return Ports({"x": x}, declared.outputs)
        y = Out("logits", "... K")
        y.name = "y"
        return Ports({"x": x, "weight": weight}, {"y": y})

    @classmethod
    def review(cls, config: Any, inputs: Mapping[str, Identities]) -> str:
        """There are prototypes: its own, or given ones."""
        if config.count is not None or "weight" in inputs:
            return ""
        return (
            "nothing says how many prototypes there are; set 'count: 4096', or plug rows such as "
            "centroids into 'weight'"
        )

    def build(self, D: int) -> None:
        """Make the prototypes for rows of width D."""
        if self.config.count is None:
            return
        count, scale = self.config.count, self.config.scale
        self.v = nn.Parameter(nn.Linear(D, count, bias=False).weight.detach().clone())
        if scale in ("fixed", "learned"):
            self.g = nn.Parameter(torch.ones(count, 1), requires_grad=scale == "learned")
        self.constrain()

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """A logit for each prototype."""
        if weight is not None:
            return functional.linear(x, weight[0].to(x.dtype))
        return functional.linear(x, self._rows())

    def _rows(self) -> Tensor:
        if self.config.scale in ("fixed", "learned"):
            lengths: Tensor = self.v.norm(dim=1, keepdim=True)
            return self.v * (self.g / lengths)
        return self.v

    @torch.no_grad()
    def constrain(self) -> None:
        """Put the rows of `unit` back to length 1."""
        super().constrain()
        if self.config.scale == "unit" and self.config.count is not None:
            off = (self.v.norm(dim=1, keepdim=True) - 1).abs()
            kept = off <= _ROUNDING * torch.finfo(self.v.dtype).eps  # frozen ones stay to the bit
            self.v.copy_(torch.where(kept, self.v, functional.normalize(self.v, dim=1)))
