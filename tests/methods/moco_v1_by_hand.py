"""MoCo v1 written by hand with torch and timm: nothing of the package is imported here.

The networks and the queue are those of MoCo v2; the head is one layer, the views are others.
"""

from __future__ import annotations

import kornia
from torch import Tensor, nn

from tests.methods.moco_v2_by_hand import Moco
from tests.methods.simclr_by_hand import Sample, by_image, crop, jitter, normalised


def make_view(image: Tensor, draw: Sample, size: int) -> Tensor:
    """One view of one image: crop, gray, jitter at all times, flip, normalise."""
    image = crop(image, draw, 0.2, 1.0, size, "bilinear")
    if draw.uniform("gray/0/hit") < 0.2:
        image = kornia.color.rgb_to_grayscale(image[None]).repeat(1, 3, 1, 1)[0]
    image = jitter(image, draw, (0.4, 0.4, 0.4, 0.4))
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    return normalised(image)


def make_views(images: Tensor, seed: int, node: str, size: int) -> Tensor:
    """Query and key views of a batch, 2 B C size size."""
    return by_image(images, seed, node, lambda i, draw, view: make_view(i, draw, size), 2)


class MocoV1(Moco):
    """Query and key networks with one linear layer each, and the queue."""

    def __init__(self, arch: str, width: int, out: int) -> None:
        super().__init__(arch, width, 1, out)
        self.projector = nn.Sequential(nn.Linear(width, out))


def recipe_rate(epoch: int) -> float:
    """A tenth from epoch 120 on, a hundredth from epoch 160 on."""
    rate = 0.03
    for milestone in (120, 160):
        rate *= 0.1 if epoch >= milestone else 1.0
    return rate
