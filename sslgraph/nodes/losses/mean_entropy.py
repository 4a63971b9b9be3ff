"""How evenly a batch uses all prototypes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss, at_least_float32, exact
from sslgraph.nodes.ranks import sum_over_ranks, world_size
from sslgraph.ports import In
from sslgraph.schedules import Bounds, Number


class MeanEntropy(Loss, use="mean_entropy"):
    """What the entropy of the mean prediction lacks to its maximum (MSN, section 3).

    ln K - H(p), where p is the mean of softmax(x / temperature) over all rows: those of all views
    and positions, and by default of all processes. The gradient goes through the mean. The value is
    that of the released code; the paper's, -H(p), is lower by ln K.

    Shapes: x V B ... K, not normalised; the loss is a scalar in nats.
    """

    x = In("logits", "V B ... K")
    prevents = "entropy"
    sample = {"temperature": 0.5}

    class Config(Node.Config):
        """Settings.

        Attributes:
            temperature: Divides the logits.
            ranks: Whose rows are averaged: of all processes, or each its own.
        """

        temperature: Annotated[Number, Bounds(gt=0)] = 1.0
        ranks: Literal["all", "own"] = "all"

    temperature: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The loss of a batch of logits."""
        with exact(x):
            rows = (at_least_float32(x) / self.temperature).softmax(-1).flatten(0, -2)
            mean = rows.mean(0)
            if self.training and self.config.ranks == "all":
                mean = sum_over_ranks(mean) / world_size()
            # a prototype that no row uses has no entropy, and no infinite slope
            logs = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
            return math.log(len(mean)) + (mean * logs).sum()

    def chance(self, sizes: Mapping[str, int]) -> float:
        """Every row is even over all prototypes, and so is their mean."""
        return 0.0

    def floor(self, sizes: Mapping[str, int]) -> float:
        """The mean is even; the rows need not be."""
        return 0.0
