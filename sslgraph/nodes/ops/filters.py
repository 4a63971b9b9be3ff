"""Blur, noise and erased boxes."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry.bbox import bbox_to_mask
from pydantic import AfterValidator, Field
from torch import Tensor

from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops.base import Number, Op, Params, Positive, Share, ordered, values


def _odd(taps: int) -> int:
    if taps % 2 == 0:
        raise ValueError(f"an even kernel of {taps} taps has no centre: write {taps + 1}")
    return taps


class Blur(Op, name="blur", kornia="filters.gaussian_blur2d"):
    """Gaussian blur with a width of each image's own (SimCLR, appendix A).

    The kernel spans a tenth of the image: 2 floor(H / 20) + 1 taps, 23 at 224 pixels; borders
    reflect.
    """

    value: Annotated[
        tuple[Positive, Positive], values("smallest", "largest"), AfterValidator(ordered)
    ] = Field(alias="blur", description="standard deviation in pixels: [smallest, largest]")
    p: Share = Field(1.0, description="chance that an image is blurred")
    kernel: Annotated[int, Field(strict=True, ge=1), AfterValidator(_odd)] | None = Field(
        None, description="taps of the kernel, odd; a tenth of the image if absent"
    )

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`sigma`: B pixels."""
        return {"sigma": draws.uniform("sigma", *self.value)}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Convolve rows, then columns; a kernel wider than the image is cut to it."""
        fits = 2 * min(image.shape[2:]) - 1
        taps = min(self.kernel or 2 * (image.shape[2] // 20) + 1, fits)
        sigma = params["sigma"][:, None].expand(-1, 2)
        return gaussian_blur2d(image, (taps, taps), sigma, border_type="reflect")


class Noise(Op, name="noise", kornia="none: an addition"):
    """Independent Gaussian noise on every value, cut to [0, 1]."""

    value: Positive = Field(alias="noise", description="standard deviation; images are in [0, 1]")
    p: Share = Field(1.0, description="chance that an image gets noise")

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`noise`: B C H W."""
        return {"noise": draws.normal("noise", image) * self.value}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Add."""
        return (image + params["noise"]).clamp_(0, 1)


class Erase(Op, name="erase", kornia="geometry.bbox.bbox_to_mask"):
    """One box of each image filled with a constant (random erasing, arXiv 1708.04896)."""

    unit_range = False
    value: Share = Field(alias="erase", description="chance that a box is erased")
    area: Annotated[tuple[Share, Share], values("smallest", "largest"), AfterValidator(ordered)] = (
        Field((0.02, 0.33), description="share of the image's area: [smallest, largest]")
    )
    ratio: Annotated[
        tuple[Positive, Positive], values("smallest", "largest"), AfterValidator(ordered)
    ] = Field((0.3, 3.3), description="width / height of the box: [smallest, largest]")
    fill: Number = Field(0.0, description="the value that is put in")

    @property
    def probability(self) -> float:
        """The value."""
        return self.value

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`box`: B x 4 int64, top, left, height, width; cut to the image, not drawn again."""
        _, height, width = image
        pixels = draws.uniform("area", *self.area).double() * (height * width)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = (draws.uniform("ratio").double() * (high - low) + low).exp()
        w = (pixels * aspect).sqrt().round().long().clamp(1, width)
        h = (pixels / aspect).sqrt().round().long().clamp(1, height)
        top, left = draws.integer("top", 0, height - h), draws.integer("left", 0, width - w)
        return {"box": torch.stack([top, left, h, w], dim=1)}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Fill the box."""
        top, left, h, w = params["box"].unbind(1)
        bottom, right = top + h - 1, left + w - 1  # bbox_to_mask counts its last row and column
        corners = ((left, top), (right, top), (right, bottom), (left, bottom))
        box = torch.stack([torch.stack(corner, dim=1) for corner in corners], dim=1).float()
        mask = bbox_to_mask(box, image.shape[3], image.shape[2])[:, None]
        return image.masked_fill(mask.bool(), self.fill)
