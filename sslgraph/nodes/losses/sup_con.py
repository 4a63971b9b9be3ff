"""The contrastive loss with classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss, at_least_float32, exact
from sslgraph.nodes.ranks import rank, world_size
from sslgraph.ports import In
from sslgraph.schedules import Bounds, Finite, Number


class SupCon(Loss, use="sup_con"):
    """Tell the views of a class from all others (Supervised Contrastive Learning, eq. 2 and 3).

    Each embedding is an anchor once. Its positives are all other views of images of its class, its
    negatives all views of other classes, over all processes. An image whose label is below 0 is a
    class of its own; where all are, this is `nt_xent`. An anchor without a positive counts as 0.

    Shapes: x V B D, not normalised, label 1 B, the class of an image in every view; the loss is a
    scalar in nats.
    """

    x = In("embedding", "V B D")
    label = In("label", "1 B")
    gathers = {"x": "grad", "label": "no_grad"}
    prevents = "negatives"
    sample = {"temperature": 0.5, "base_temperature": 0.25}

    class Config(Node.Config):
        """Settings.

        Attributes:
            temperature: Divides the cosines; the smaller, the more the nearest negatives count.
            base_temperature: The loss is multiplied by temperature / base_temperature: 0.07 in the
                code for PyTorch, 1 in that for TensorFlow. Absent: the paper's loss as it is.
            log: Where the logarithm stands, `outside` or `inside` the sum over positives (eq. 2
                and 3); inside did worse.
        """

        temperature: Annotated[Number, Bounds(gt=0)] = 0.1
        base_temperature: Annotated[Finite, Field(gt=0)] | None = None
        log: Literal["outside", "inside"] = "outside"

    temperature: Tensor

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch: the mean over the anchors of this process."""
        views, batch, _ = x.shape
        share = batch // world_size() if self.training else batch
        first = rank() * share if self.training else 0
        with exact(x):  # a cosine has 3 digits in bfloat16
            z = functional.normalize(at_least_float32(x), dim=-1)
            anchors = z[:, first : first + share].flatten(0, 1)
            scores = anchors @ z.flatten(0, 1).T / self.temperature
        image = torch.arange(batch, device=x.device)
        mine, classes = image[first : first + share], label.flatten()
        same = (classes[mine, None] == classes) & (classes >= 0) | (mine[:, None] == image)
        places = torch.arange(views * batch, device=x.device).view(views, batch)
        own = places[:, mine].reshape(-1, 1) == places.flatten()
        positive = same.repeat(views, views) & ~own
        log_p = functional.log_softmax(scores.masked_fill(own, -torch.inf), dim=-1)
        value = self._terms(log_p, positive).mean()
        base = self.config.base_temperature
        return value if base is None else value * self.temperature / base

    def _terms(self, log_p: Tensor, positive: Tensor) -> Tensor:
        """The value of each anchor: both inputs have an anchor a row."""
        count = positive.sum(-1, dtype=log_p.dtype)
        if self.config.log == "outside":
            return -torch.where(positive, log_p, 0).sum(-1) / count.clamp(min=1)
        # an anchor without a positive has the sum of nothing, whose gradient would be nan
        some = count > 0
        kept = torch.where(positive | ~some[:, None], log_p.clamp(min=-1e30), -torch.inf)
        return torch.where(some, count.clamp(min=1).log() - torch.logsumexp(kept, -1), 0)

    def chance(self, sizes: Mapping[str, int]) -> float:
        """All embeddings equal: ln(V B - 1) an anchor, if it has a positive."""
        base = self.config.base_temperature
        scale = 1.0 if base is None else float(self.temperature) / base
        return scale * math.log(sizes["V"] * sizes["B"] - 1)
