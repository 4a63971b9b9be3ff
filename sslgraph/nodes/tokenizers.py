"""Tokenizers: a class for each patch of an image, as what a masked prediction aims at."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.masks import patch_grid
from sslgraph.nodes.pixels import normalized, patches_of
from sslgraph.ports import In, Out

_ROWS = 8192  # patches that are scored at a time, which bounds the memory for scores


class Tokenizer(Node, use="tokenizer"):
    """A class for each patch by a random projection, never trained (SplitMask).

    The pixels of a patch are normalised to mean 0 and variance 1, all channels together, and
    compared with `count` directions; the class is the one with the largest product. Directions are
    normal draws of length 1, made from the run's seed and the node's name; they are a buffer, so a
    checkpoint has them. No gradient passes.

    A trained tokenizer, such as the one of BEiT, is a `frozen` run whose output are classes.

    Shapes: image B C H W -> ids B N, 0 to count - 1, patches in raster order.
    """

    image = In("image", "B C H W")
    ids = Out("label", "B N")
    learns = False
    stops_gradient = True
    sample = {"patch": 8, "count": 16}

    class Config(Node.Config):
        """Settings.

        Attributes:
            kind: How classes are found.
            count: Number of classes.
            patch: Side of a patch in pixels.
        """

        kind: Literal["random_projection"] = "random_projection"
        count: int = Field(8192, ge=2)
        patch: int = Field(16, ge=2)

    directions: Tensor

    def build(self, C: int, H: int, W: int) -> None:
        """Draw the directions for patches of C channels."""
        config = self.config
        patch_grid(self.declaration.use, config.patch, H, W)
        drawn = torch.randn(config.count, config.patch**2 * C)
        self.register_buffer("directions", functional.normalize(drawn, dim=1))

    def forward(self, image: Tensor) -> Tensor:
        """The classes of the patches of a batch of images."""
        with torch.no_grad(), exact(image):  # half precision would swap near ones
            patches = normalized(patches_of(at_least_float32(image), self.config.patch))
            rows = patches.flatten(0, 1).split(_ROWS)
            ids = torch.cat([(part @ self.directions.T).argmax(-1) for part in rows])
        return ids.view(patches.shape[:2])
