"""SimCLR written by hand with torch, timm and kornia: nothing of the package is imported here.

It follows the paper's code step by step, one image after the other where the package works on
batches. The random parameters come from the documented formula (nested SplitMix64 of seed, node,
view, position).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import kornia
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

WORD = (1 << 64) - 1

PUBLISHED: Mapping[str, Any] = {
    "crop": (0.08, 1.0),
    "interpolation": "bicubic",
    "jitter": (0.8, 0.8, 0.8, 0.2),
    "blur": (0.1, 2.0),
}
"""What the paper's views are made with, but for their size."""

ROUNDING = 1e-5
"""How far standardised views may differ from those by hand: a filter's taps are added in float32
or in float64 and in another order, about 3e-7 of a pixel's range, which colours magnify."""


def mix(*keys: int) -> int:
    """Nested SplitMix64 on plain integers."""
    state = 0
    for key in keys:
        z = (state + 0x9E3779B97F4A7C15 * (key + 1)) & WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        state = z ^ (z >> 31)
    return state


def text_key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass
class Sample:
    """The draws of one view of one sample."""

    key: int

    def bits(self, name: str, lane: int | None = None) -> int:
        lanes = () if lane is None else (lane,)
        return mix(text_key(name), self.key, *lanes)

    def uniform(
        self, name: str, low: float = 0, high: float = 1, lane: int | None = None
    ) -> Tensor:
        number = torch.tensor(self.bits(name, lane) >> 40, dtype=torch.float32) * 2.0**-24
        return number * (high - low) + low

    def integer(self, name: str, low: int, high: int) -> int:
        return low + (((self.bits(name) >> 32) * (high - low + 1)) >> 32)

    def order(self, name: str, count: int) -> list[int]:
        words = [self.bits(name, lane) for lane in range(count)]
        signed = [word - (1 << 64) if word >> 63 else word for word in words]
        return sorted(range(count), key=signed.__getitem__)


def crop(image: Tensor, draw: Sample, low: float, high: float, size: int, mode: str) -> Tensor:
    """Random resized crop of one image, C H W -> C size size.

    The part alone is scaled by torch's antialiased interpolation, which has PIL's filters; in
    float64, so that what is compared with it differs by its own rounding only.
    """
    top, left, tall, wide = box(draw, low, high, *image.shape[1:])
    part = image[None, :, top : top + tall, left : left + wide].double()
    view = functional.interpolate(part, (size, size), mode=mode, antialias=True)[0]
    return view.clamp(0, 1).to(image.dtype)


def box(
    draw: Sample, low: float, high: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of an image."""
    bounds = math.log(3 / 4), math.log(4 / 3)
    for attempt in range(10):
        share = draw.uniform("crop/0/area", lane=attempt).double() * (high - low) + low
        shape = draw.uniform("crop/0/ratio", lane=attempt).double() * (bounds[1] - bounds[0])
        area, ratio = share * (height * width), (shape + bounds[0]).exp()
        w, h = int((area * ratio).sqrt().round()), int((area / ratio).sqrt().round())
        if 0 < w <= width and 0 < h <= height:
            top = draw.integer("crop/0/top", 0, height - h)
            return top, draw.integer("crop/0/left", 0, width - w), h, w
    return 0, 0, height, width  # for square images


def jitter(image: Tensor, draw: Sample, strengths: Sequence[float]) -> Tensor:
    """Brightness, contrast, saturation, hue in the image's own order."""
    enhance = kornia.enhance
    steps: list[tuple[str, Callable[..., Any]]] = [
        ("brightness", enhance.adjust_brightness_accumulative),
        ("contrast", enhance.adjust_contrast_with_mean_subtraction),
        ("saturation", enhance.adjust_saturation_with_gray_subtraction),
        ("hue", enhance.adjust_hue),
    ]
    for which in draw.order("jitter/0/order", 4):
        name, adjust = steps[which]
        strength = strengths[which]
        if name == "hue":
            factor = draw.uniform(f"jitter/0/{name}", -strength, strength) * (2 * math.pi)
        else:
            factor = draw.uniform(f"jitter/0/{name}", max(0.0, 1 - strength), 1 + strength)
        image = adjust(image[None], factor[None])[0]
    return image


def make_view(image: Tensor, draw: Sample, setting: Mapping[str, Any]) -> Tensor:
    """One view of one image: crop, flip, jitter, gray, blur."""
    low, high = setting["crop"]
    image = crop(image, draw, low, high, setting["size"], setting["interpolation"])
    return after_crop(image, draw, setting)


def after_crop(image: Tensor, draw: Sample, setting: Mapping[str, Any]) -> Tensor:
    """Flip, jitter, gray and blur, whose kernel follows the size of the image."""
    size = image.shape[-1]
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    if draw.uniform("jitter/0/hit") < 0.8:
        image = jitter(image, draw, setting["jitter"])
    if draw.uniform("gray/0/hit") < 0.2:
        image = kornia.color.rgb_to_grayscale(image[None]).repeat(1, 3, 1, 1)[0]
    if draw.uniform("blur/0/hit") < 0.5:
        taps = 2 * (size // 20) + 1
        sigma = draw.uniform("blur/0/sigma", *setting["blur"]).expand(1, 2)
        image = kornia.filters.gaussian_blur2d(image[None], (taps, taps), sigma)[0]
    return image


def normalised(
    image: Tensor,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> Tensor:
    """Each channel with a mean of 0 and a deviation of 1, over ImageNet unless said."""
    return (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def by_image(
    images: Tensor, seed: int, node: str, make: Callable[[Tensor, Sample, int], Tensor], views: int
) -> Tensor:
    """Views of each image, made one after the other from their own draws: views B C size size."""
    made = [
        make(image, Sample(mix(seed, text_key(node), view, place)), view)
        for view in range(views)
        for place, image in enumerate(images)
    ]
    return torch.stack(made).unflatten(0, (views, len(images)))  # type: ignore[no-any-return]


def make_views(images: Tensor, seed: int, node: str, setting: Mapping[str, Any]) -> Tensor:
    """Two views of each image, [view 1 of all; view 2 of all]."""
    made = by_image(images, seed, node, lambda i, draw, view: make_view(i, draw, setting), 2)
    return made.flatten(0, 1)


class SimCLR(nn.Module):
    """Encoder, projector and loss over one batch of 2N views."""

    def __init__(self, arch: str, width: int, hidden: int, out: int, temperature: float) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        last = nn.BatchNorm1d(out)
        last.register_parameter("bias", None)
        self.projector = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
            last,
        )
        self.temperature = temperature

    def forward(self, views: Tensor) -> Tensor:
        """The loss as the published code reports it: the sum of both views' means."""
        encoder: Any = self.encoder
        z = functional.normalize(self.projector(encoder(views)), dim=-1)
        scores = z @ z.T / self.temperature
        scores.fill_diagonal_(-torch.inf)
        n = len(views) // 2
        first, second = torch.arange(n), torch.arange(n, 2 * n)
        return functional.cross_entropy(scores[:n], second) + functional.cross_entropy(
            scores[n:], first
        )
