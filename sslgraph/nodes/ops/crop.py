"""The random resized crop: its boxes, and resampling with a box per image."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from kornia.geometry import transform
from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from torch import Tensor

from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops.base import (
    Number,
    Op,
    Params,
    Positive,
    Side,
    Size,
    ordered,
    values,
)
from sslgraph.schedules import fault

CropInterpolation = Literal["bilinear", "bicubic", "lanczos"]

AreaShare = Annotated[Number, Field(gt=0, le=1)]


class Crop(Op, name="crop", kornia="geometry.transform.remap"):
    """A random part of the image, scaled to the view (Inception's crop; torchvision's sampler).

    The share of the area is uniform, the logarithm of width / height is uniform; the first of
    `tries` boxes that fits is taken, else the largest centred box whose ratio is allowed. Boxes are
    whole pixels and pixel centres lie at half-integers, as in torchvision's resized crop.
    """

    value: Annotated[
        tuple[AreaShare, AreaShare], values("smallest", "largest"), AfterValidator(ordered)
    ] = Field(alias="crop", description="share of the image's area: [smallest, largest]")
    ratio: Annotated[
        tuple[Positive, Positive], values("smallest", "largest"), AfterValidator(ordered)
    ] = Field((3 / 4, 4 / 3), description="width / height of the part: [smallest, largest]")
    interpolation: CropInterpolation = Field(
        "bilinear", description="how pixels are interpolated; lanczos with antialias only"
    )
    antialias: bool = Field(
        True,
        strict=True,
        validate_default=True,
        description="average over the pixels that a smaller view leaves out",
    )
    tries: Side = Field(10, description="boxes drawn before the centred one is taken")

    @field_validator("antialias")
    @classmethod
    def _resampled(cls, antialias: bool, info: ValidationInfo) -> bool:
        see_resampling(info.data.get("interpolation"), antialias=antialias)
        return antialias

    def output_size(self, height: int, width: int, size: int) -> Size:
        """Always the view."""
        return size, size

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`box`: B x 4 int64, top, left, height, width."""
        return {"box": draw_boxes(draws, image[1:], self.value, self.ratio, self.tries)}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Cut and scale in one resampling."""
        box = params["box"]
        if self.antialias:
            return antialiased_crop(image, box, size, self.interpolation)
        return crop_and_resize(image, box, size, self.interpolation)


def see_resampling(interpolation: CropInterpolation | None, *, antialias: bool) -> None:
    """Refuse what there is no resampling for.

    Raises:
        PydanticCustomError: Lanczos' filter is there in its antialiased form only, which is PIL's.
    """
    if interpolation == "lanczos" and not antialias:
        raise fault(
            "'interpolation: lanczos' averages over the pixels that a smaller view leaves out",
            expected="'antialias: true', the default",
            help="delete 'antialias: false', or take bicubic",
        )


def draw_boxes(
    draws: Draws, image: Size, area: tuple[float, float], ratio: tuple[float, float], tries: int
) -> Tensor:
    """B x 4 int64 boxes (top, left, height, width) of Inception's crop.

    Draws `area` and `ratio`, rows of `tries` numbers, then `top` and `left` for the box that was
    taken. Computed in float64, where a last-bit difference between devices changes a whole pixel
    with a chance of about 1e-13.
    """
    height, width = image
    share = draws.uniform("area", shape=(tries,)).double()
    shape = draws.uniform("ratio", shape=(tries,)).double()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    pixels = (share * (area[1] - area[0]) + area[0]) * (height * width)
    aspect = (shape * (high - low) + low).exp()
    wide = (pixels * aspect).sqrt().round().long()
    tall = (pixels / aspect).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.long().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    centred = centred_box(height, width, ratio)
    h = torch.where(found, tall.gather(1, first)[:, 0], centred[0])
    w = torch.where(found, wide.gather(1, first)[:, 0], centred[1])
    top = torch.where(found, draws.integer("top", 0, height - h), (height - h) // 2)
    left = torch.where(found, draws.integer("left", 0, width - w), (width - w) // 2)
    return torch.stack([top, left, h, w], dim=1)


def centred_box(height: int, width: int, ratio: tuple[float, float]) -> Size:
    """Height and width of the largest box inside the image whose ratio is allowed."""
    if width / height < ratio[0]:
        return min(height, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, min(width, round(height * ratio[1]))
    return height, width


def crop_and_resize(image: Tensor, box: Tensor, size: int, interpolation: str) -> Tensor:
    """Each image's own box (top, left, height, width in pixels), resampled to size x size."""
    rows, columns = (
        sample_places(box[:, axis], box[:, axis + 2], image.shape[2 + axis], size)
        for axis in (0, 1)
    )
    shape = (len(image), size, size)
    view: Tensor = transform.remap(
        image,
        columns[:, None, :].expand(shape),
        rows[:, :, None].expand(shape),
        mode=interpolation,
        padding_mode="border",
        align_corners=False,
        normalized_coordinates=True,
    )
    return view.clamp_(0, 1) if interpolation == "bicubic" else view


def sample_places(start: Tensor, length: Tensor, whole: int, size: int) -> Tensor:
    """Places (n x size) along one axis, -1 and 1 being the outer edges of the image.

    They keep half a pixel from the box's edges: what lies outside the box has no influence.
    """
    centres = torch.arange(size, device=start.device) + 0.5
    inside = centres * length[:, None] / size
    inside = inside.clamp(min=0.5).minimum(length[:, None] - 0.5)
    return (start[:, None] + inside) * (2 / whole) - 1


def antialiased_crop(image: Tensor, box: Tensor, size: int, interpolation: str) -> Tensor:
    """As `crop_and_resize`, with the filter widened where the view has fewer pixels than the box.

    kornia has no antialiased resampling with a box per image. The filter is separable: the rows of
    the view are weighted sums of the image's rows, its columns of what that gives.
    """
    batch, channels, height, width = image.shape
    tops, lefts, heights, widths = box.unbind(1)
    rows = filter_taps(tops, heights, height, size, interpolation)
    x = weighted_sums(image.transpose(1, 2), rows).view(batch, size, channels, width)
    columns = filter_taps(lefts, widths, width, size, interpolation)
    x = weighted_sums(x.transpose(1, 3), columns).view(batch, size, channels, size)
    return x.permute(0, 2, 3, 1).contiguous().clamp_(0, 1)


Taps = list[tuple[Tensor, Tensor]]
"""Of a filter, one after the other: the places it takes, n x size, and their weights."""


def filter_taps(start: Tensor, length: Tensor, whole: int, size: int, interpolation: str) -> Taps:
    """What each target pixel takes from the source; the weights of all taps sum to one.

    As many for every box: those of the widest filter that an image of this size can need. Computed
    in float64, as PIL does.
    """
    kernel, radius = _KERNELS[interpolation]
    scale = length.double()[:, None] / size
    widened = scale.clamp(min=1)
    target = (torch.arange(size, device=start.device) + 0.5) * scale
    first = (target - radius * widened + 0.5).floor().long()
    places, weights = [], []
    for tap in range(math.ceil(2 * radius * max(1, whole / size))):
        place = first + tap
        inside = (place >= 0) & (place < length[:, None])
        weights.append(kernel(((place + 0.5 - target) / widened).abs()) * inside)
        places.append((start[:, None] + place).clamp(0, whole - 1))
    total = functools.reduce(torch.add, weights)
    return [(place, weight / total) for place, weight in zip(places, weights, strict=True)]


def weighted_sums(lines: Tensor, taps: Taps) -> Tensor:
    """Sums of lines of each image, n x whole x ... -> (n size) x line.

    One tap after the other, by products and sums that are rounded alike wherever a number lies in
    memory. A matrix product would sum in an order that depends on the batch, and an image's view
    with it.
    """
    batch, whole = lines.shape[:2]
    flat = lines.reshape(batch * whole, -1)
    begin = torch.arange(batch, device=lines.device)[:, None] * whole
    parts = (
        flat.index_select(0, (place + begin).flatten()).mul_(weight.to(flat.dtype).view(-1, 1))
        for place, weight in taps
    )
    return functools.reduce(Tensor.add_, parts)


def triangle(distance: Tensor) -> Tensor:
    """Linear interpolation's weight at a distance in pixels."""
    return (1 - distance).clamp(min=0)


def cubic(distance: Tensor, a: float = -0.5) -> Tensor:
    """Cubic convolution's weight (Keys 1981, eq. 4) with PIL's a = -1/2."""
    x = distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def lanczos(distance: Tensor, lobes: int = 3) -> Tensor:
    """The weight of Lanczos' windowed sinc, with PIL's three lobes."""
    weight = torch.sinc(distance) * torch.sinc(distance / lobes)
    return torch.where(distance < lobes, weight, torch.zeros_like(weight))


_KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "bilinear": (triangle, 1),
    "bicubic": (cubic, 2),
    "lanczos": (lanczos, 3),
}
"""Weights by distance, and the distance from which they are 0."""
