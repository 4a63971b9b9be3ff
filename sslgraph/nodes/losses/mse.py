"""Losses of regression: how far predicted numbers are from their targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.losses.base import at_least_float32
from sslgraph.nodes.losses.pairs import (
    Average,
    PairLoss,
    Which,
    mask_views,
    over_places,
    same_shape,
)
from sslgraph.ports import In
from sslgraph.schedules import Finite


class Regression(PairLoss):
    """Base of losses that compare numbers one by one."""

    prediction = In("tokens/embedding/image/logits/probs", "V B ... D")
    target = In("tokens/embedding/image/logits/probs", "V' B ... D")
    mask = In("mask", "V B N", optional=True)
    weight = In("weight", "V B N", optional=True)
    attracts = ("prediction", "target")

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            pairs: Which views are compared: `cross` those of different crops, `same` those of one
                crop, `all` each with each.
            average: With a mask, `batch`: the mean over all hidden places of the batch (MAE).
                `image`: the mean over the hidden places of each image and then over images, of
                which those without a hidden place count as zero.
        """

        pairs: Which = "same"
        average: Average = "batch"

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch."""
        use, average = self.declaration.use, self.config.average
        same_shape(use, prediction, target)
        hidden = mask_views(use, mask, prediction)
        weights = mask_views(use, weight, prediction, "weight")
        p, t = at_least_float32(prediction).unbind(), at_least_float32(target).unbind()
        terms = [
            over_places(
                self.errors(p[i], t[j]).mean(-1),
                hidden[i],
                average,
                training=self.training,
                weight=weights[i],
            )
            for i, j in self.compared(prediction, target)
        ]
        return self.reduced(terms)

    def floor(self, sizes: Mapping[str, int]) -> float:
        """The prediction is the target."""
        return 0.0

    def errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The error of each number."""
        raise NotImplementedError


class Mse(Regression, use="mse"):
    """Mean squared error, over the hidden places where a mask says which (MAE, section 3).

    Shapes: prediction and target have equal axes but for the number of views, such as V B N D or
    V B C H W; mask V B N, true = hidden: the loss is the sum over the hidden places of the batch of
    their means over D, divided by their number; weight V B N, of what `gather_tokens` chose: the
    loss of a pair is the sum of weight x mean over D. It is a scalar.
    """

    def errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The square of each difference."""
        return (prediction - target).square()


class SmoothL1(Regression, use="smooth_l1"):
    """Mean of errors that are squared below `beta` and absolute above (Fast R-CNN, equation 3).

    With d = |prediction - target| an error is d^2 / (2 beta) where d < beta and d - beta / 2 else,
    so the slope is 1 at most.

    Shapes: prediction and target have equal axes but for the number of views, such as V B N D or
    V B C H W; mask V B N, true = hidden: the loss is the sum over the hidden places of the batch of
    their means over D, divided by their number; weight V B N, of what `gather_tokens` chose: the
    loss of a pair is the sum of weight x mean over D. It is a scalar.
    """

    class Config(Regression.Config):
        """Settings.

        Attributes:
            beta: Where squares end; 0 gives the mean absolute error.
        """

        beta: Annotated[Finite, Field(ge=0)] = 1.0

    def errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Squares of small differences, absolute values of large ones."""
        beta = self.config.beta
        return functional.smooth_l1_loss(prediction, target, beta=beta, reduction="none")
