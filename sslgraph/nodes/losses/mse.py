"""Mean squared error."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sslgraph.nodes.losses.base import at_least_float32
from sslgraph.nodes.losses.pairs import PairLoss, Which, mask_views, over_places, same_shape
from sslgraph.ports import In


class Mse(PairLoss, use="mse"):
    """Mean squared error, over the hidden places where a mask says which (MAE, section 3).

    Shapes: prediction and target have equal axes but for the number of views, such as V B N D or
    V B C H W; mask V B N, true = hidden: the loss is the sum over the hidden places of the batch of
    their means over D, divided by their number. It is a scalar.
    """

    prediction = In("tokens/embedding/image/logits/probs", "V B ... D")
    target = In("tokens/embedding/image/logits/probs", "V' B ... D")
    mask = In("mask", "V B N", optional=True)
    attracts = ("prediction", "target")

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            pairs: Which views are compared: `cross` those of different crops, `same` those of one
                crop, `all` each with each.
        """

        pairs: Which = "same"

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch."""
        use = self.declaration.use
        same_shape(use, prediction, target)
        hidden = mask_views(use, mask, prediction)
        p, t = at_least_float32(prediction).unbind(), at_least_float32(target).unbind()
        terms = [
            over_places((p[i] - t[j]).square().mean(-1), hidden[i], "batch", training=self.training)
            for i, j in self.compared(prediction, target)
        ]
        return self.reduced(terms)

    def floor(self, sizes: Mapping[str, int]) -> float:
        """The prediction is the target."""
        return 0.0
