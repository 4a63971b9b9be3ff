"""Cross entropy with classes as target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sslgraph.checks.references import DATA
from sslgraph.nodes.losses.base import at_least_float32
from sslgraph.nodes.losses.pairs import Average, PairLoss, Which, mask_views, over_places, pairs_of
from sslgraph.ports import Identities, In, Pairs
from sslgraph.schedules import Bounds, Finite, Number


class CrossEntropy(PairLoss, use="cross_entropy"):
    """Cross entropy with a class of each image or of each place (BEiT, eq. 2).

    -log softmax(prediction / temperature) at the target's class. A label below 0 is unknown: it
    does not count, and the loss is the mean over the others, or 0 where all are unknown.

    Shapes: prediction V B K or V B N K, not normalised; target any number of views of B or B N
    classes from 0 to K - 1; mask V B N, true = hidden: only these places count; weight V B N: the
    loss is the sum of weight x value. The loss is a scalar in nats.
    """

    prediction = In("logits", "V B ... K")
    target = In("label", "V' B ...")
    mask = In("mask", "V B N", optional=True)
    weight = In("weight", "V B N", optional=True)

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            temperature: Divides the prediction.
            smoothing: Share of the target that is spread over all classes alike.
            pairs: Which views are compared: `same` those of one crop (labels of the data belong to
                every view), `cross` those of different crops, `all` each with each.
            average: With places, `batch`: the mean over all that count in the batch (BEiT).
                `image`: the mean over those of each image and then over images, of which those
                without any count as zero. They are equal where as many count in every image.
        """

        temperature: Annotated[Number, Bounds(gt=0)] = 1.0
        smoothing: Annotated[Finite, Field(ge=0, lt=1)] = 0.0
        pairs: Which = "same"
        average: Average = "batch"

    temperature: Tensor

    @classmethod
    def pairs(cls, config: Any, inputs: Mapping[str, Identities]) -> Pairs:
        """The compared views; what comes from the data itself, as `batch.label`, suits them all."""
        first, second = inputs["prediction"], inputs["target"]
        every = config.pairs == "same" and second == (DATA,)
        return pairs_of("all" if every else config.pairs, first, second)

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch."""
        use = self.declaration.use
        _see_labels(use, prediction, target)
        hidden = mask_views(use, mask, prediction)
        weights = mask_views(use, weight, prediction, "weight")
        scores = at_least_float32(prediction) / self.temperature
        log_p = functional.log_softmax(scores, dim=-1).unbind()  # once a view, not once a pair
        labels = target.unbind()
        terms = [
            self._term(log_p[i], labels[j], hidden[i], weights[i])
            for i, j in self.compared(prediction, target)
        ]
        return self.reduced(terms)

    def _term(
        self, log_p: Tensor, label: Tensor, hidden: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """The value of one pair: log_p B ... K, the others B ..."""
        counted = label >= 0
        values = -log_p.gather(-1, label.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        smoothing = self.config.smoothing
        if smoothing:
            values = (1 - smoothing) * values - smoothing * log_p.mean(-1)
        if hidden is not None:
            counted = counted & hidden
        average: Average = "batch"  # images without places are one line of places
        if label.dim() > 1:
            average, values, counted = self.config.average, values.flatten(1), counted.flatten(1)
        return over_places(values, counted, average, training=self.training, weight=weight)

    def chance(self, sizes: Mapping[str, int]) -> float:
        """The prediction is the same for all K: ln K, smoothed or not."""
        return self.scale(sizes) * math.log(sizes["K"])

    def floor(self, sizes: Mapping[str, int]) -> float:
        """The prediction is the smoothed target, and costs its entropy."""
        smoothing, count = self.config.smoothing, sizes["K"]
        if not smoothing or count == 1:
            return 0.0
        each = smoothing / count
        right = 1 - smoothing + each
        entropy: float = -right * math.log(right) - (count - 1) * each * math.log(each)
        return self.scale(sizes) * entropy


def _see_labels(use: str, prediction: Tensor, target: Tensor) -> None:
    """See that there is a label for each row of scores, and that it is one of its classes.

    Raises:
        ValueError: There is none. On an accelerator, where values are not waited for, only shapes
            are looked at.
    """
    if prediction.shape[1:-1] != target.shape[1:]:
        raise ValueError(
            f"{use} compares a label with each row of scores, got views of "
            f"{list(prediction.shape[1:-1])} rows and of {list(target.shape[1:])} labels"
        )
    if target.device.type != "cpu" or torch.compiler.is_compiling():
        return
    highest, count = int(target.max()), prediction.shape[-1]
    if highest >= count:
        raise ValueError(
            f"{use}.prediction has {count} classes, 0 to {count - 1}, but a label is {highest}"
        )
