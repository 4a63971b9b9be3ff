"""Losses that treat both of their sides alike and keep each spread out by its own statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslgraph.nodes.losses.pairs import PairLoss, no_pair
from sslgraph.ports import Identities, In, Pairs


class TwinLoss(PairLoss):
    """Base class of symmetric losses over pairs of views.

    With `x` alone the views of `x` are compared with each other, every pair once: two views are one
    pair. With `y` plugged, such as the output of another encoder, each pair is a view of `x` and
    one of `y`.
    """

    x = In("embedding", "V B D")
    y = In("embedding", "V' B D", optional=True)
    attracts = ("x", "y")

    @classmethod
    def pairs(cls, config: Any, inputs: Mapping[str, Identities]) -> Pairs:
        """The compared views, ordered by the names of their crops."""
        if "y" in inputs:
            return super().pairs(config, inputs)
        both_ways = super().pairs(config, {"x": inputs["x"], "y": inputs["x"]})
        once: list[tuple[int, int]] = []
        for i, j in both_ways:
            if i != j and (j, i) not in once:
                once.append((i, j))
        return tuple(once)

    @classmethod
    def review(cls, config: Any, inputs: Mapping[str, Identities]) -> str:
        """At least one pair is needed."""
        if cls.pairs(config, inputs):
            return ""
        if "y" in inputs:
            return super().review(config, inputs)
        if len(inputs["x"]) > 1:
            return no_pair(config.pairs, ("x", inputs["x"]))
        return (
            f"{cls.declaration.use} compares views of one image, got 1 view; give it two or more, "
            "or plug those of another network into y"
        )


def squares_beside_diagonal(matrix: Tensor) -> Tensor:
    """The sum of the squares of a square matrix, its diagonal left out."""
    diagonal = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(diagonal, 0).square().sum()
