"""What every loss declares beyond a node: what is known of its value before it runs."""

from __future__ import annotations

from collections.abc import Mapping

from sslgraph.nodes.base import Node
from sslgraph.ports import Out


class Loss(Node):
    """Base class of losses: one scalar output, and the values that tell how a run stands."""

    is_loss = True
    loss = Out("loss", "")

    def chance(self, sizes: Mapping[str, int]) -> float | None:
        """Value of a network that tells nothing apart.

        Args:
            sizes: Axis sizes of the inputs, such as ``{"V": 2, "B": 256, "D": 128}``; B counts all
                ranks.
        """
        return None

    def floor(self, sizes: Mapping[str, int]) -> float | None:
        """The lowest value that there can be."""
        return None
