"""Redundancy reduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.losses.pairs import PairLoss
from sslgraph.nodes.losses.twins import TwinLoss, squares_beside_diagonal
from sslgraph.nodes.ranks import sum_over_ranks, world_size
from sslgraph.schedules import Bounds, Number

EPS = 1e-5
"""Added to variances, as batch norm does."""


class BarlowTwins(TwinLoss, use="barlow_twins"):
    """Bring the cross-correlation of two views to the identity (Barlow Twins, equation 1).

    Each view is normalised over the batch, each dimension to mean 0 and variance 1. The loss of a
    pair is the sum of (1 - C_ii)^2 plus `weight` times the sum of C_ij^2 beside the diagonal.
    Statistics and correlations are those of all processes, and the gradient is the true one; the
    published code's is smaller by the number of its processes.

    Shapes: x V B D, y V' B D, not normalised; the loss is a scalar.
    """

    prevents = "decorrelation"
    sample = {"weight": 0.1}

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            weight: Weight of what lies beside the diagonal, the lambda of the paper, whose text has
                0.005.
        """

        weight: Annotated[Number, Bounds(ge=0)] = 0.0051

    weight: Tensor

    @classmethod
    def guards(cls, config: Any) -> str:
        """Without weight all dimensions may say the same."""
        return cls.prevents if config.weight != 0 else ""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The loss of a batch."""
        with exact(x):
            first = self._normalised(x)
            second = first if y is None else self._normalised(y)
            count = self._samples(x)
            terms = [
                self._apart_from_identity(self._total(first[i].T @ second[j]) / count)
                for i, j in self.compared(x, y)
            ]
            return self.reduced(terms)

    def _normalised(self, x: Tensor) -> Tensor:
        """Each dimension of each view with mean 0 and variance 1 over the batch."""
        x = at_least_float32(x)
        mean = self._total(x.sum(1, keepdim=True)) / self._samples(x)
        centred = x - mean  # a second pass: the mean of squares minus the squared mean loses digits
        variance = self._total(centred.square().sum(1, keepdim=True)) / self._samples(x)
        return centred * torch.rsqrt(variance + EPS)

    def _apart_from_identity(self, correlation: Tensor) -> Tensor:
        on = (1 - correlation.diagonal()).square().sum()
        return on + self.weight * squares_beside_diagonal(correlation)

    def _samples(self, x: Tensor) -> int:
        return x.shape[1] * (world_size() if self.training else 1)

    def _total(self, x: Tensor) -> Tensor:
        return sum_over_ranks(x) if self.training else x

    def chance(self, sizes: Mapping[str, int]) -> float:
        """All embeddings equal: they correlate with nothing, so each dimension counts 1."""
        return float(self.scale(sizes) * sizes["D"])

    def floor(self, sizes: Mapping[str, int]) -> float:
        """Views are equal and dimensions uncorrelated."""
        return 0.0
