"""Norms as nodes of their own."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from sslgraph.nodes.base import Node
from sslgraph.ports import In, Member, Out, Ports
from sslgraph.schedules import Finite


class LayerNorm(Node, use="layer_norm"):
    """Put each row to mean 0 and standard deviation 1 (Ba et al., eq. 3).

    With `affine` each of the D numbers has a learned scale, 1 at first, and shift, 0.

    Shapes: x ... D -> y ... D.
    """

    x = In("T=embedding/tokens", "... D")
    y = Out("T", "... D")

    class Config(Node.Config):
        """Settings.

        Attributes:
            affine: Whether scale and shift are learned; without them it has no weights, as on the
                targets of I-JEPA.
            epsilon: Is added to the variance.
        """

        affine: bool = True
        epsilon: Annotated[Finite, Field(gt=0)] = 1e-5

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """The same with all settings; without scale and shift there is nothing to train."""
        declared = cls.declaration
        return Ports(declared.inputs, declared.outputs, learns=config.affine)

    def build(self, D: int) -> None:
        """Make scale and shift of rows of D numbers."""
        config = self.config
        self.norm = nn.LayerNorm(D, eps=config.epsilon, elementwise_affine=config.affine)

    def forward(self, x: Tensor) -> Tensor:
        """The rows with mean 0 and variance 1."""
        y: Tensor = self.norm(x)
        return y
