"""Pixels as targets."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from sslgraph.nodes.base import Node
from sslgraph.nodes.masks import patch_grid
from sslgraph.ports import In, Out

_EPSILON = 1e-6


class Patchify(Node, use="patchify"):
    """The pixels of each patch in a row (MAE, section 3, 'reconstruction target').

    Patches stand in raster order; within one the order is row, column, channel.

    Shapes: image B C H W -> y B N D with D = patch x patch x C.
    """

    image = In("image", "B C H W")
    y = Out("tokens", "B N D")
    learns = False
    sample = {"patch": 8, "normalize": "patch"}

    class Config(Node.Config):
        """Settings.

        Attributes:
            patch: Side of a patch in pixels.
            normalize: `patch` subtracts from each patch its mean and divides it by the root of its
                unbiased variance + 1e-6, over all pixels and channels together.
        """

        patch: PositiveInt = 16
        normalize: Literal["none", "patch"] = "none"

    def build(self, H: int, W: int) -> None:
        """See that the images are whole patches."""
        patch_grid(self.declaration.use, self.config.patch, H, W)

    def forward(self, image: Tensor) -> Tensor:
        """The patches of a batch of images."""
        y = patches_of(image, self.config.patch)
        return y if self.config.normalize == "none" else normalized(y)


def patches_of(image: Tensor, side: int) -> Tensor:
    """B C H W as B N D, patches in raster order and within one row, column, channel."""
    tiles = image.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # B C rows y columns x
    y: Tensor = tiles.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return y


def normalized(patches: Tensor) -> Tensor:
    """Each patch less its mean, by the root of its unbiased variance + 1e-6."""
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + _EPSILON).sqrt()
