"""The Kozachenko-Leonenko estimate of entropy, which spreads a batch over the sphere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.losses.base import Loss, at_least_float32, exact
from sslgraph.nodes.ranks import gather
from sslgraph.ports import In

_EPS = 1e-8  # of norms, of each coordinate of a difference and of a distance, as released


class Koleo(Loss, use="koleo"):
    """Keep each image away from its nearest neighbour (Sablayrolles 2019, eq. 4; DINOv2, sec. 4).

    -mean over images of ln |x - its nearest|, of rows of unit length, each view for itself: a
    view's neighbours are the same view of other images. Which one is nearest carries no gradient;
    both ends of a distance do. The value is that of the released code.

    Shapes: x V B D, not normalised; the loss is a scalar, in nats.
    """

    x = In("embedding", "V B D")
    prevents = "entropy"
    sample = {"reduce": "sum"}

    class Config(Node.Config):
        """Settings.

        Attributes:
            reduce: Mean or sum over the views.
            ranks: Among whose images neighbours are looked for: those of the own process (DINOv2),
                or of all.
            group: Cut the images, those of all processes where `ranks: all`, into groups of this
                many and look for neighbours within a group (DINOv3); one group if absent.
        """

        reduce: Literal["mean", "sum"] = "mean"
        ranks: Literal["own", "all"] = "own"
        group: int | None = Field(None, ge=2)

    def build(self) -> None:
        """See that the images can be cut into groups, where a graph tells their number."""
        samples, group = self.context.samples, self.config.group
        if samples and group and samples % group:
            raise SettingError(
                f"{samples} images can't be cut into groups of {group}",
                path=("group",),
                expected=f"a multiple of {group} images in each process a forward pass",
                got=f"{samples} over all processes",
                help="change train.batch_size, train.accumulate or 'group'",
            )

    def forward(self, x: Tensor) -> Tensor:
        """The loss of a batch of embeddings."""
        if self.training and self.config.ranks == "all":
            x = gather(x, 1, grad=True)
        views, batch, width = x.shape
        group = self.config.group or batch
        if batch % group or batch < 2:
            raise ValueError(f"koleo looks for neighbours in groups of {group}, got {batch} images")
        with exact(x):
            rows = functional.normalize(at_least_float32(x), dim=-1, eps=_EPS)
            rows = rows.reshape(views, batch // group, group, width)
            with torch.no_grad():
                own = torch.eye(group, dtype=torch.bool, device=x.device)
                nearest = (rows @ rows.mT).masked_fill(own, -1.0).argmax(-1)
            others = rows.gather(2, nearest[..., None].expand_as(rows))
            distances = functional.pairwise_distance(rows, others, eps=_EPS)
            terms = -(distances + _EPS).log().mean((1, 2))
        return terms.sum() if self.config.reduce == "sum" else terms.mean()

    def chance(self, sizes: Mapping[str, int]) -> float:
        """All images in one point: what the released code's constants leave of a distance."""
        scale = sizes["V"] if self.config.reduce == "sum" else 1
        return -scale * math.log(_EPS * math.sqrt(sizes["D"]) + _EPS)
