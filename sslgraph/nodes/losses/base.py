"""What every loss declares beyond a node: what is known of its value before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

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


def exact(x: Tensor) -> AbstractContextManager[object]:
    """Within it nothing is cast to half precision; the meta device knows no autocast anyway."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; what is exact enough stays as it is."""
    return x.float() if x.dtype.itemsize < 4 else x
