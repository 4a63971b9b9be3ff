"""Regression of one direction onto another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.losses.base import at_least_float32
from sslgraph.nodes.losses.pairs import PairLoss, Reduce, mask_views, over_places, same_shape
from sslgraph.ports import In

# A vector shorter than this keeps its length: BYOL holds the squared norm above 1e-12.
SHORTEST = 1e-6


class CosineRegression(PairLoss, use="cosine_regression"):
    """Turn predictions towards their targets (BYOL, equation 2; SimSiam, equation 1).

    Both inputs are normalised here. Gradient flows into both: a target that must not move comes
    through `ema` or `stop_grad`.

    Shapes: prediction V B D or V B N D, target the same with any number of views, mask V B N (true
    = hidden: only these places count, each alike); the loss is a scalar.
    """

    prediction = In("tokens/embedding", "V B ... D")
    target = In("tokens/embedding", "V' B ... D")
    mask = In("mask", "V B N", optional=True)
    attracts = ("prediction", "target")
    sample = {"reduce": "sum"}

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            reduce: Sum or mean over the pairs of views. BYOL sums: its learning rate is tuned for
                that, and the mean cost a reimplementation eleven points; SimSiam takes the mean.
            form: `distance`: 2 - 2 cos (BYOL), `similarity`: -cos (SimSiam).
        """

        reduce: Reduce
        form: Literal["distance", "similarity"] = "distance"

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch."""
        use = self.declaration.use
        same_shape(use, prediction, target)
        hidden = mask_views(use, mask, prediction)
        p, t = _unit(prediction).unbind(), _unit(target).unbind()
        cosines = [
            over_places((p[i] * t[j]).sum(-1), hidden[i], "batch", training=self.training)
            for i, j in self.compared(prediction, target)
        ]
        if self.config.form == "similarity":
            return self.reduced([-cosine for cosine in cosines])
        return self.reduced([2 - 2 * cosine for cosine in cosines])

    def floor(self, sizes: Mapping[str, int]) -> float:
        """All predictions point where their targets do."""
        return -float(self.scale(sizes)) if self.config.form == "similarity" else 0.0


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(at_least_float32(x), dim=-1, eps=SHORTEST)
