"""Where gradients and values go, without parameters."""

from __future__ import annotations

from torch import Tensor

from sslgraph.nodes.base import Node
from sslgraph.ports import In, Out


class StopGrad(Node, use="stop_grad"):
    """Pass values on and no gradient back (SimSiam, section 3)."""

    x = In("T", "...")
    y = Out("T", "...")
    stops_gradient = True

    def forward(self, x: Tensor) -> Tensor:
        """The values of x, detached."""
        return x.detach()
