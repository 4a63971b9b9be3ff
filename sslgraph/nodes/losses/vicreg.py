"""Variance, invariance, covariance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.losses.pairs import PairLoss
from sslgraph.nodes.losses.twins import TwinLoss, squares_beside_diagonal
from sslgraph.schedules import Bounds, Number

EPS = 1e-4
"""Added to variances before the root."""


class VicReg(TwinLoss, use="vicreg"):
    """Draw views together while each keeps its dimensions apart and alive (VICReg, equation 6).

    The loss of a pair is `similarity` times the mean squared difference, plus `variance` times the
    mean of both views' max(0, 1 - s_d) over dimensions, plus `covariance` times the sum of both
    views' C_ij^2 beside the diagonal, divided by D. s_d^2 = C_dd + 0.0001, and C is the covariance
    over the batch of all processes, divided by B - 1.

    Shapes: x V B D, y V' B D, as they come; the loss is a scalar.
    """

    gathers = {"x": "grad", "y": "grad"}
    prevents = "variance"
    sample = {"covariance": 0.5}

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            similarity: Weight of the difference between the views.
            variance: Weight of what standard deviations lack to 1. The published code takes the
                mean of both views; for the sum, as in the paper's equation, double it.
            covariance: Weight of the covariances.
        """

        similarity: Annotated[Number, Bounds(ge=0)] = 25.0
        variance: Annotated[Number, Bounds(ge=0)] = 25.0
        covariance: Annotated[Number, Bounds(ge=0)] = 1.0

    similarity: Tensor
    variance: Tensor
    covariance: Tensor

    @classmethod
    def guards(cls, config: Any) -> str:
        """Without the variance term all images may be one point; covariance does not mind that."""
        return cls.prevents if config.variance != 0 else ""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The loss of a batch."""
        if x.shape[1] < 2:
            raise ValueError("vicreg needs the variance over a batch, got 1 sample")
        with exact(x):
            first = at_least_float32(x)
            second = first if y is None else at_least_float32(y)
            pairs = self.compared(x, y)
            alone = {i: self._of_view(first[i]) for i in {i for i, _ in pairs}}
            other = alone if y is None else {}
            for j in {j for _, j in pairs} - other.keys():
                other[j] = self._of_view(second[j])
            terms = [
                self.similarity * functional.mse_loss(first[i], second[j]) + alone[i] + other[j]
                for i, j in pairs
            ]
            return self.reduced(terms)

    def _of_view(self, z: Tensor) -> Tensor:
        """What one view adds to the loss of each of its pairs."""
        batch, width = z.shape
        centred = z - z.mean(0)
        deviation = torch.sqrt(centred.square().sum(0) / (batch - 1) + EPS)
        covariance = centred.T @ centred / (batch - 1)
        short = functional.relu(1 - deviation).mean() / 2
        return self.variance * short + self.covariance * squares_beside_diagonal(covariance) / width

    def chance(self, sizes: Mapping[str, int]) -> float:
        """All embeddings equal: standard deviations are 0.01, and nothing else counts."""
        return self.scale(sizes) * float(self.variance) * (1 - math.sqrt(EPS))

    def floor(self, sizes: Mapping[str, int]) -> float:
        """Views are equal, and their dimensions have standard deviations of 1 and no covariance."""
        return 0.0
