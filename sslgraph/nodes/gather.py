"""What stands at hidden places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.pairs import Average
from sslgraph.nodes.places import hidden_count, hidden_places
from sslgraph.nodes.ranks import sum_over_ranks, world_size
from sslgraph.ports import Identities, In, Out


class GatherTokens(Node, use="gather_tokens"):
    """Take what stands at the hidden places of each image, in raster order.

    M is one number: how many places an even mask hides, the most that any image may hide of a
    ragged one. Where an image hides fewer, the rest of its rows are copies of rows of visible
    places, with weight 0. A weight is 1 / (hidden places of the image x B), so that the plain sum
    of weight x value over B and M is the mean over images of their means over hidden places; images
    without hidden places count as zero. With `average: batch` it is 1 / (hidden places of the
    batch), so that the sum is the mean over these. One view of x serves all views of the mask.

    Shapes: x V B N ..., mask V' B N, true = hidden -> y V' B M ..., weight V' B M.
    """

    x = In("T=tokens/label/probs/logits", "V B N ...")
    mask = In("mask", "V' B N")
    y = Out("T", "V' B M ...", main=True)
    weight = Out("weight", "V' B M")
    learns = False
    sample_axes = {"V'": 2}

    class Config(Node.Config):
        """Settings.

        Attributes:
            average: What weights make of a sum over rows: with `image` every image counts alike
                (iBOT, DINOv2), with `batch` every hidden place, over all processes (BEiT). They
                are equal where every image hides as many.
        """

        average: Average = "image"

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Those of the masks."""
        return dict.fromkeys(("y", "weight"), inputs["mask"])

    @classmethod
    def review(cls, config: Any, inputs: Mapping[str, Identities]) -> str:
        """Masks and what they choose from come from the same crops, but for a single view of x."""
        x, mask = inputs["x"], inputs["mask"]
        if len(x) in (1, len(mask)):
            return ""
        return (
            f"masks of {len(mask)} views do not fit {len(x)} views of x; give as many of both, or "
            "one view of x"
        )

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        """The hidden places of a batch, and what each counts."""
        if x.shape[1:3] != mask.shape[1:] or x.shape[0] not in (1, mask.shape[0]):
            raise ValueError(
                f"gather_tokens.mask marks places of {list(mask.shape)}, but x has "
                f"{list(x.shape[:3])}"
            )
        count = hidden_count(self, "mask", mask)
        places = hidden_places(self, "mask", mask)
        index = places.view(*places.shape, *[1] * (x.dim() - 3)).expand(*places.shape, *x.shape[3:])
        y = x.expand(len(mask), *x.shape[1:]).gather(2, index)
        hidden = mask.sum(-1, keepdim=True)
        filled = torch.arange(count, device=mask.device) < hidden
        return self.Outputs(y, filled / self._shares(hidden))

    def _shares(self, hidden: Tensor) -> Tensor:
        """What the weights of each image are the inverse of, from its hidden places V' B 1."""
        if self.config.average == "image":
            return (hidden.clamp(min=1) * hidden.shape[1]).float()
        count = hidden.sum(1, keepdim=True).float()
        if self.training and world_size() > 1:  # gradients are averaged over ranks
            count = sum_over_ranks(count) / world_size()
        return torch.where(count > 0, count, 1)
