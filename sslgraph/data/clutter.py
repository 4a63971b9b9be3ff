"""Drawing cluttered colour digits: pictures as a function of (seed, digit, view).

No global generator, no library sine, no fused arithmetic: a picture has the same pixels alone and
in a batch of any size. One thread draws about 5000 a second at 32 pixels with the default clutter.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.nn.functional import grid_sample

from sslgraph.hashing import bell, mix, text_key, uniform

_SIDE = 8
_TRIES = 8
_LUMINANCE = (0.299, 0.587, 0.114)


class Clutter(BaseModel):
    """What makes a picture hard. Lengths are fractions of the canvas.

    Args:
        size: Smallest and largest side of the digit's 8 x 8 cell.
        place: Digit anywhere on the canvas, else in the middle.
        turn: Largest rotation to either side, in degrees.
        color: Ink and ground of random colours and opposite brightness, else white on black.
        gradient: Ground that goes from one colour to another.
        fragments: Number of fragments of other digits, in the same ink so that colour can't tell.
        keep_out: Least distance of a fragment from the digit's middle, in sizes of the digit; with
            none, some digits can't be read by people. After 8 tries a fragment stays where it is.
        noise: Standard deviation of the noise on each pixel, with the full range as 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[float, float] = (0.5, 0.65)
    place: bool = True
    turn: float = Field(default=15.0, ge=0, le=45)
    color: bool = True
    gradient: bool = True
    fragments: NonNegativeInt = 6
    keep_out: NonNegativeFloat = 0.7
    noise: NonNegativeFloat = 0.06


_PLAIN = Clutter(
    size=(0.65, 0.65), place=False, turn=0, color=False, gradient=False, fragments=0, noise=0
)
_PLACED = Clutter(color=False, gradient=False, fragments=0, noise=0)

RUNGS: dict[str, Clutter] = {
    "A": _PLAIN,
    "E": _PLAIN.model_copy(update={"color": True}),
    "B": _PLACED,
    "C": _PLACED.model_copy(update={"color": True, "gradient": True}),
    "D": Clutter(),
    "D10": Clutter(fragments=10),
}
"""Nuisances one by one: each rung tells what a representation has learnt to ignore."""


def render(
    glyphs: Tensor,
    digits: Tensor,
    views: Tensor,
    *,
    seed: int,
    canvas: int,
    clutter: Clutter,
    pool: Tensor,
) -> Tensor:
    """Draw pictures.

    Args:
        glyphs: Ink of all digits, float32 N 8 8 in [0, 1].
        digits: Which digit each picture shows, int64 B.
        views: Number of the picture among those of its digit, int64 B.
        seed: Another seed gives other pictures of the same digits.
        canvas: Side of the pictures in pixels.
        clutter: What makes them hard.
        pool: The digits that fragments are cut from, int64.

    Returns:
        uint8 B 3 canvas canvas. Each depends on its own digit and view alone.
    """
    draw = _Draws(mix(seed, text_key("cluttered digits"), digits, views))
    ink = _ink(draw, glyphs, digits, canvas, clutter, pool)[:, None]
    ground, pen = _colors(draw, canvas, clutter)
    pixels = ground * (1 - ink) + pen * ink
    if clutter.noise:
        pixels = pixels + bell(draw.bits("noise", 3, canvas, canvas)) * clutter.noise
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


class _Draws:
    """Random numbers of each picture, by name: a new nuisance leaves the others as they were."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    def bits(self, name: str, *shape: int) -> Tensor:
        """Words, int64 B *shape."""
        keys = mix(self.keys, text_key(name)).view(-1, *[1] * len(shape))
        numbers = torch.arange(math.prod(shape)).view(1, *shape)
        return mix(keys, numbers).view(len(self.keys), *shape)

    def between(self, name: str, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers, float32 B *shape."""
        return low + uniform(self.bits(name, *shape)) * (high - low)

    def below(self, name: str, bound: int, *shape: int) -> Tensor:
        """Integers in [0, bound), int64 B *shape."""
        return ((self.bits(name, *shape) >> 33 & 0x7FFFFFFF) * bound) >> 31


def _ink(
    draw: _Draws, glyphs: Tensor, digits: Tensor, canvas: int, clutter: Clutter, pool: Tensor
) -> Tensor:
    """How much ink lies on each pixel, B canvas canvas in [0, 1]: the digit and the fragments."""
    size = draw.between("size", *clutter.size)
    middle = torch.full((len(digits), 2), 0.5)
    if clutter.place:
        middle = size[:, None] / 2 + uniform(draw.bits("place", 2)) * (1 - size[:, None])
    turn = _half_tangent(draw, "turn", clutter)
    ink = _placed(glyphs[digits], middle, size, turn, canvas)
    if not clutter.fragments:
        return ink
    count = clutter.fragments
    parts, offset = _fragments(draw, glyphs, pool, count)
    sizes = size[:, None] * draw.between("fragment size", 0.7, 1.1, count)
    turns = _half_tangent(draw, "fragment turn", clutter, count)
    centers = _kept_out(draw, middle, size * clutter.keep_out, count) + offset * sizes[..., None]
    laid = _placed(
        parts.flatten(0, 1), centers.flatten(0, 1), sizes.flatten(), turns.flatten(), canvas
    )
    return torch.maximum(ink, laid.view(len(digits), count, canvas, canvas).amax(1))


def _half_tangent(draw: _Draws, name: str, clutter: Clutter, *shape: int) -> Tensor:
    """A rotation as the tangent of half its angle, so that no sine is needed.

    Library sines differ in the last bit with the place in a batch; these pictures must not.
    """
    largest = math.tan(math.radians(clutter.turn) / 2)
    return draw.between(name, -largest, largest, *shape)


def _placed(glyphs: Tensor, middle: Tensor, size: Tensor, turn: Tensor, canvas: int) -> Tensor:
    """Glyphs N 8 8 drawn with their middle at `middle` (x, y), N canvas canvas."""
    cos = (1 - turn * turn) / (1 + turn * turn)
    sin = 2 * turn / (1 + turn * turn)
    pixel = (torch.arange(canvas) + 0.5) / canvas
    scale = (2 / size)[:, None]
    x = (pixel - middle[:, :1]) * scale
    y = (pixel - middle[:, 1:]) * scale
    right = (x * cos[:, None])[:, None, :] + (y * sin[:, None])[:, :, None]
    down = (y * cos[:, None])[:, :, None] - (x * sin[:, None])[:, None, :]
    grid = torch.stack([right, down], -1)
    return grid_sample(glyphs[:, None], grid, align_corners=False)[:, 0]


def _fragments(draw: _Draws, glyphs: Tensor, pool: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Windows of 4 x 4 pixels of other digits, B F 8 8, and what brings each to its middle."""
    window = _SIDE // 2
    corner = draw.below("fragment window", _SIDE - window + 1, count, 2)
    steps = torch.arange(_SIDE) - corner[..., None]
    inside = (steps >= 0) & (steps < window)
    keep = inside[..., 1, :, None] & inside[..., 0, None, :]
    parts = glyphs[pool[draw.below("fragment digit", len(pool), count)]] * keep
    return parts, 0.5 - (corner + window / 2) / _SIDE


def _kept_out(draw: _Draws, middle: Tensor, radius: Tensor, count: int) -> Tensor:
    """Places, B F 2: for each the first of some tries outside the radius, else the last try."""
    tries = draw.between("fragment place", 0, 1, count, _TRIES, 2)
    away = tries - middle[:, None, None]
    good = (away * away).sum(-1) >= (radius * radius)[:, None, None]
    good[..., -1] = True
    first = good.to(torch.uint8).argmax(-1)
    return tries.take_along_dim(first[..., None, None], 2)[:, :, 0]


def _colors(draw: _Draws, canvas: int, clutter: Clutter) -> tuple[Tensor, Tensor]:
    """Ground, B 3 canvas canvas or broadcasting to it, and ink, B 3 1 1."""
    count = len(draw.keys)
    if not clutter.color:
        return torch.zeros(count, 3, 1, 1), torch.ones(count, 3, 1, 1)
    inverted = uniform(draw.bits("polarity")) < 0.5
    bright = draw.between("bright", 0.7, 0.95, 3)
    dark = draw.between("dark", 0.05, 0.3, 3)
    luminance = torch.where(inverted[:, None], bright, dark)
    luminance[:, 2] = torch.where(inverted, dark[:, 2], bright[:, 2])
    hue = draw.between("hue", -0.5, 0.5, 3, 3)
    weight = torch.tensor(_LUMINANCE)
    gray = (hue * weight).sum(-1)
    first, second, pen = (hue - gray[..., None] + luminance[..., None])[..., None, None].unbind(1)
    if not clutter.gradient:
        return first, pen
    along = draw.between("gradient", -1, 1, 2)
    pixel = (torch.arange(canvas) + 0.5) / canvas - 0.5
    reach = along.abs().sum(-1)[:, None, None] + 1e-6
    slope = along[:, 0, None, None] * pixel + along[:, 1, None, None] * pixel[:, None]
    mixed = (slope / reach + 0.5)[:, None]
    return first * (1 - mixed) + second * mixed, pen
