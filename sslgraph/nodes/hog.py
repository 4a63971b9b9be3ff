"""Histograms of oriented gradients as targets."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.masks import patch_grid
from sslgraph.ports import In, Out
from sslgraph.schedules import fault


class Hog(Node, use="hog"):
    """Histograms of the directions of edges in each patch (MaskFeat, section 3.2).

    Every colour channel has its own. Gradients come from 3 x 3 Sobel filters, with the border
    mirrored; each pixel adds the length of its gradient to the bin of its direction, of which half
    a turn has `bins`: opposite directions are one. A cell of `cell` x `cell` pixels has one
    histogram, divided by its length. There is no window and no normalisation over blocks of cells,
    as in the released code. It is no gradient of the loss that passes here: none does.

    Images are taken as they come; MaskFeat's are normalised as for the encoder.

    Shapes: image B C H W -> y B N D, patches in raster order; within one the order is channel, bin,
    row of cells, column of cells, so D = C x bins x (patch / cell)^2.
    """

    image = In("image", "B C H W")
    y = Out("tokens", "B N D")
    learns = False
    stops_gradient = True
    sample = {"patch": 16, "cell": 8}

    class Config(Node.Config):
        """Settings.

        Attributes:
            patch: Side of a patch in pixels.
            cell: Side of a cell in pixels; whole cells make up a patch.
            bins: Number of directions.
        """

        patch: PositiveInt = 16
        cell: PositiveInt = 8
        bins: int = Field(9, ge=2)

        @model_validator(mode="after")
        def _whole_cells(self) -> Self:
            if self.patch % self.cell:
                raise fault(
                    f"cells of {self.cell} x {self.cell} don't fill a patch of "
                    f"{self.patch} x {self.patch}",
                    expected=f"a 'cell' that divides {self.patch}",
                )
            return self

    def build(self, H: int, W: int) -> None:
        """See that the images are whole patches."""
        patch_grid(self.declaration.use, self.config.patch, H, W)

    def forward(self, image: Tensor) -> Tensor:
        """The histograms of a batch of images."""
        config = self.config
        with torch.no_grad(), exact(image):
            length, direction = _edges(at_least_float32(image), config.bins)
            found = [
                _over_cells(length.where(direction == number, 0), config.cell)
                for number in range(config.bins)
            ]
            histograms = functional.normalize(torch.stack(found, 2), dim=2)  # B C bins rows columns
            side = config.patch // config.cell
            tiles = histograms.unflatten(4, (-1, side)).unflatten(3, (-1, side))
            y: Tensor = tiles.permute(0, 3, 5, 1, 2, 4, 6).flatten(3).flatten(1, 2)
        return y


def _edges(image: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Length of the gradient at each pixel, and the number of the bin of its direction.

    Sums are written out, so that where neighbours are equal a difference is 0 and not nearly 0,
    which could be another bin.
    """
    x = functional.pad(image, (1, 1, 1, 1), mode="reflect")
    down = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    across = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    horizontal = down[..., :-2] - down[..., 2:]
    vertical = across[:, :, :-2] - across[:, :, 2:]
    turn = torch.atan2(horizontal, vertical) / math.pi * bins
    return torch.hypot(horizontal, vertical), turn.floor().remainder(bins)


def _over_cells(x: Tensor, side: int) -> Tensor:
    """Sums over squares of pixels: B C H W -> B C rows columns."""
    cells: Tensor = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cells.sum((3, 5))
