"""Cross entropy with a distribution as target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.losses.base import at_least_float32
from sslgraph.nodes.losses.pairs import Average, PairLoss, mask_views, over_places, same_shape
from sslgraph.ports import In
from sslgraph.schedules import Bounds, Number


class SoftCrossEntropy(PairLoss, use="soft_cross_entropy"):
    """Cross entropy with a distribution as target (DINO, eq. 2; SwAV, eq. 2).

    -sum over k of target_k log softmax(prediction / temperature)_k. The target is not sharpened or
    centered here, and no gradient is stopped: it comes through `ema`, `sinkhorn` or `stop_grad`.

    Shapes: prediction V B K or V B N K, not normalised; target the same with any number of views,
    rows that sum to 1; mask V B N, true = hidden: only these places count; weight V B N, of what
    `gather_tokens` chose: the loss of a pair is the sum of weight x value. With `places` V B V' N,
    as `match` finds them, the target is V' B M K, and each place of a prediction is compared with
    the one named there. It is a scalar in nats.
    """

    prediction = In("logits", "V B ... K")
    target = In("probs", "V' B ... K")
    mask = In("mask", "V B N", optional=True)
    weight = In("weight", "V B N", optional=True)
    places = In("label", "V B V' N", optional=True)
    attracts = ("prediction", "target")

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            temperature: Divides the prediction; the target has its own where it is made.
            average: With a mask, `image`: the mean over the hidden places of each image and then
                over images, of which those without a hidden place count as zero (iBOT, DINOv2).
                `batch`: the mean over all hidden places of the batch (BEiT). They are equal where
                every image hides as many.
        """

        temperature: Annotated[Number, Bounds(gt=0)] = 1.0
        average: Average = "image"

    temperature: Tensor

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch."""
        use, average = self.declaration.use, self.config.average
        if places is None:
            same_shape(use, prediction, target)
        else:
            _same_places(use, prediction, target, places)
        hidden = mask_views(use, mask, prediction)
        weights = mask_views(use, weight, prediction, "weight")
        scores = at_least_float32(prediction) / self.temperature
        log_p = functional.log_softmax(scores, dim=-1).unbind()  # once a view, not once a pair
        q = at_least_float32(target).unbind()
        terms = [
            over_places(
                -(_taken(q, j, places, i) * log_p[i]).sum(-1),
                hidden[i],
                average,
                training=self.training,
                weight=weights[i],
            )
            for i, j in self.compared(prediction, target)
        ]
        return self.reduced(terms)

    def chance(self, sizes: Mapping[str, int]) -> float:
        """The prediction is the same for all K: ln K, whatever the target."""
        return self.scale(sizes) * math.log(sizes["K"])

    def floor(self, sizes: Mapping[str, int]) -> float:
        """Sure of the right one; a target that is less sure has its entropy as its own floor."""
        return 0.0


def _taken(target: Sequence[Tensor], view: int, places: Tensor | None, by: int) -> Tensor:
    """A view of the target, or of each image the places that a view of the prediction names."""
    if places is None:
        return target[view]
    chosen = places[by, :, view, :, None].expand(-1, -1, target[view].shape[-1])
    return target[view].gather(1, chosen)


def _same_places(use: str, prediction: Tensor, target: Tensor, places: Tensor) -> None:
    """See that places name those of the target, one for each of the prediction.

    Raises:
        ValueError: They don't.
    """
    views, batch = prediction.shape[:2]
    fits = prediction.dim() == target.dim() == 4 and target.shape[1] == batch
    wanted = (views, batch, target.shape[0], *prediction.shape[2:-1])
    if not fits or prediction.shape[-1] != target.shape[-1] or places.shape != wanted:
        raise ValueError(
            f"{use}.places name a place of the target for each of the prediction, got "
            f"{list(places.shape)} for views of {list(prediction.shape[1:])} and "
            f"{list(target.shape[1:])}"
        )
