"""Operations that move pixels: flips, resizing, fixed and random squares, rotation."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from kornia.geometry import transform
from pydantic import Field
from torch import Tensor

from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops.base import Interpolation, Number, Op, Params, Share, Side, Size


class Flip(Op, name="flip", kornia="geometry.transform.hflip"):
    """Left and right swapped."""

    unit_range = False
    value: Share = Field(alias="flip", description="chance of a flip")

    @property
    def probability(self) -> float:
        """The value."""
        return self.value

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Mirror every row."""
        return transform.hflip(image)


class VerticalFlip(Op, name="vflip", kornia="geometry.transform.vflip"):
    """Top and bottom swapped."""

    unit_range = False
    value: Share = Field(alias="vflip", description="chance of a flip")

    @property
    def probability(self) -> float:
        """The value."""
        return self.value

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Mirror every column."""
        return transform.vflip(image)


class Rotate(Op, name="rotate", kornia="geometry.transform.rotate"):
    """A turn about the centre; what comes from outside the image is black, or its border."""

    unit_range = False
    value: Annotated[Number, Field(ge=0, le=180)] = Field(
        alias="rotate", description="degrees: the angle is uniform between minus and plus this"
    )
    p: Share = Field(1.0, description="chance of a turn")
    interpolation: Literal["bilinear", "nearest"] = Field("bilinear")
    fill: Literal["zeros", "border", "reflection"] = Field("zeros")

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`angle`: B degrees, counter-clockwise."""
        return {"angle": draws.uniform("angle", -self.value, self.value)}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Turn each image by its angle."""
        return transform.rotate(
            image, params["angle"], mode=self.interpolation, padding_mode=self.fill
        )


class Resize(Op, name="resize", kornia="geometry.transform.resize"):
    """The whole image with its shorter side at a given length, smoothed where it shrinks."""

    spatial = True
    value: Side = Field(alias="resize", description="length of the shorter side in pixels")
    interpolation: Interpolation = Field("bilinear")

    def output_size(self, height: int, width: int, size: int) -> Size:
        """The shorter side is the value, the other follows."""
        if height <= width:
            return self.value, int(self.value * width / height)
        return int(self.value * height / width), self.value

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Resample all images alike."""
        return resize(image, self.output_size(image.shape[2], image.shape[3], size), self)

    def evaluate(self, image: Tensor, size: int) -> Tensor:
        """The same."""
        return self.apply(image, {}, size)


def resize(image: Tensor, to: Size, op: Resize | None = None) -> Tensor:
    """The whole image at another size."""
    if to == tuple(image.shape[2:]):
        return image
    how = op.interpolation if op else "bilinear"
    resized: Tensor = transform.resize(image, to, interpolation=how, antialias=True)
    return resized.clamp_(0, 1) if how == "bicubic" else resized  # a cubic overshoots


class RandomCrop(Op, name="random_crop", kornia="geometry.transform.remap"):
    """A square of n x n pixels from a random place, at the image's own scale."""

    unit_range = False
    spatial = True
    value: Side = Field(alias="random_crop", description="side of the square in pixels")
    padding: Annotated[int, Field(strict=True, ge=0)] = Field(
        0, description="black pixels that are first put round the image"
    )

    def output_size(self, height: int, width: int, size: int) -> Size:
        """The square."""
        around = 2 * self.padding
        _must_hold("random_crop", self.value, height + around, width + around)
        return self.value, self.value

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`corner`: B x 2 int64, top and left, negative within the padding."""
        corners = [
            draws.integer(name, -self.padding, whole + self.padding - self.value)
            for name, whole in zip(("top", "left"), image[1:], strict=True)
        ]
        return {"corner": torch.stack(corners, dim=1)}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Copy whole pixels: nearest neighbours of exact pixel centres."""
        n = self.value
        centres = torch.arange(n, device=image.device) + 0.5
        rows, columns = (
            (params["corner"][:, axis, None] + centres) * (2 / image.shape[2 + axis]) - 1
            for axis in (0, 1)
        )
        return transform.remap(
            image,
            columns[:, None, :].expand(-1, n, n),
            rows[:, :, None].expand(-1, n, n),
            mode="nearest",
            padding_mode="zeros",
            align_corners=False,
            normalized_coordinates=True,
        )

    def evaluate(self, image: Tensor, size: int) -> Tensor:
        """The centre, without padding where the image is large enough."""
        side = min(self.value, *image.shape[2:])
        return centre(image, side, side)


class CenterCrop(Op, name="center_crop", kornia="none: a slice"):
    """A square of n x n pixels from the centre."""

    unit_range = False
    spatial = True
    value: Side = Field(alias="center_crop", description="side of the square in pixels")

    def output_size(self, height: int, width: int, size: int) -> Size:
        """The square."""
        _must_hold("center_crop", self.value, height, width)
        return self.value, self.value

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Cut."""
        return centre(image, self.value, self.value)

    def evaluate(self, image: Tensor, size: int) -> Tensor:
        """The same, as far as the image reaches."""
        side = min(self.value, *image.shape[2:])
        return centre(image, side, side)


def _must_hold(name: str, side: int, height: int, width: int) -> None:
    if side > min(height, width):
        raise ValueError(
            f"{name}: {side} needs an image of at least {side} x {side} pixels, got {height} x "
            f"{width}; put {{resize: {side}}} before it, or make it smaller"
        )


def centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle height x width pixels, rounded to the top left as torchvision's fallback does."""
    top, left = (image.shape[2] - height) // 2, (image.shape[3] - width) // 2
    return image[:, :, top : top + height, left : left + width]


def fit(image: Tensor, size: int, share: float) -> Tensor:
    """A centred square of the image at size x size.

    Args:
        image: B C H W.
        size: Side of the result.
        share: Part of the shorter side that the square spans where that leaves at least `size`
            pixels; an image hardly larger than the view gives up no more than what exceeds it.
    """
    shorter = min(image.shape[2:])
    side = min(shorter, max(size, round(shorter * share)))
    return resize(centre(image, side, side), (size, size))
