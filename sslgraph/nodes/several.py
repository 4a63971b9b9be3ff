"""From several values one: of several wires, or of the places of an image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sslgraph.nodes.base import Node, SettingError
from sslgraph.ports import In, Out


class Mean(Node, use="mean"):
    """The mean of several wires of one shape, such as the last blocks of a teacher (data2vec).

    Shapes: any number of x V B ... D -> y V B ... D; a wire of one view serves all views of others.
    """

    x = In("T=embedding/tokens/logits/probs/weight/image", "V B ... D", variadic="alike")
    y = Out("T", "V B ... D")

    def forward(self, *x: Tensor) -> Tensor:
        """The mean of the values, each counting alike."""
        _of_one_shape("mean", x, slice(2, None))
        total = x[0]
        for value in x[1:]:
            total = total + value
        return total / len(x)


class Concat(Node, use="concat"):
    """Several wires side by side on the last axis, in the order of the list.

    Shapes: any number of x V B ... D, whose D may differ -> y V B ... E, E their sum; a wire of
    one view serves all views of others.
    """

    x = In("T=embedding/tokens/logits", "V B ... D", variadic="apart")
    y = Out("T", "V B ... E")

    def forward(self, *x: Tensor) -> Tensor:
        """The rows, one behind the other."""
        _of_one_shape("concat", x, slice(2, -1))
        views = max(value.shape[0] for value in x)
        return torch.cat([value.expand(views, *value.shape[1:]) for value in x], -1)


class Pool(Node, use="pool"):
    """One row for each image, from those of its places.

    Shapes: x B N D -> y B D.
    """

    x = In("tokens", "B N D")
    y = Out("embedding", "B D")
    learns = False
    sample = {"how": "mean"}

    class Config(Node.Config):
        """Settings.

        Attributes:
            how: The mean of the places, or the largest value of each column.
        """

        how: Literal["mean", "max"] = "mean"

    def forward(self, x: Tensor) -> Tensor:
        """The pooled rows."""
        return x.mean(1) if self.config.how == "mean" else x.amax(1)


def _of_one_shape(use: str, values: tuple[Tensor, ...], axes: slice) -> None:
    """See that values agree in some axes, all of which a wire's check does not know.

    Raises:
        SettingError: They don't; broadcasting would mix places.
    """
    shapes = [list(value.shape[axes]) for value in values]
    odd = next((shape for shape in shapes if shape != shapes[0]), None)
    if odd is not None:
        raise SettingError(
            f"{use} takes inputs of one shape",
            path=("in", shapes.index(odd)),
            expected=f"views of {shapes[0]}, as the first one has",
            got=f"{odd}",
        )
