"""BYOL written by hand with torch, timm and kornia: nothing of the package is imported here.

Views come from the documented hash formula, image by image; the loss is the paper's equation 2 for
both directions, the slow copy its equation 1.
"""

from __future__ import annotations

import copy
import math

import kornia
import timm
import torch
from torch import Tensor, nn

from tests.methods.barlow_twins_by_hand import Lars, warm_cosine
from tests.methods.simclr_by_hand import Sample, by_image, crop, jitter, normalised


def make_view(image: Tensor, draw: Sample, view: int, size: int) -> Tensor:
    """One view of one image: crop, flip, jitter, gray, blur, solarize, normalise."""
    image = crop(image, draw, 0.08, 1.0, size, "bicubic")
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    return normalised(recoloured(image, draw, view))


def recoloured(image: Tensor, draw: Sample, view: int) -> Tensor:
    """Jitter, gray, blur and solarize, whose chances differ between the views."""
    if draw.uniform("jitter/0/hit") < 0.8:
        image = jitter(image, draw, (0.4, 0.4, 0.2, 0.1))
    if draw.uniform("gray/0/hit") < 0.2:
        image = kornia.color.rgb_to_grayscale(image[None]).repeat(1, 3, 1, 1)[0]
    if view == 0 or draw.uniform("blur/0/hit") < 0.1:
        taps = 2 * (image.shape[-1] // 20) + 1
        sigma = draw.uniform("blur/0/sigma", 0.1, 2.0).expand(1, 2)
        image = kornia.filters.gaussian_blur2d(image[None], (taps, taps), sigma)[0]
    if view == 1 and draw.uniform("solarize/0/hit") < 0.2:
        image = torch.where(image < 0.5, image, 1 - image)
    return image


def make_views(images: Tensor, seed: int, node: str, size: int) -> list[Tensor]:
    """Both views of a batch."""
    made = by_image(images, seed, node, lambda i, draw, view: make_view(i, draw, view, size), 2)
    return [*made]


def head(width: int, hidden: int, out: int) -> nn.Sequential:
    """A bias before the batch norm, none at the end."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out, bias=False),
    )


class Byol(nn.Module):
    """Online and target networks; each view goes through them as a batch of its own."""

    def __init__(self, arch: str, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        self.projector = head(width, hidden, out)
        self.predictor = head(out, hidden, out)

    def begin(self, peak: float, steps: int, warmup: int) -> None:
        """Make the optimizer, and the target as a copy."""
        self.peak, self.steps, self.warmup = peak, steps, warmup
        self.descent = Lars([*self.parameters()], 1.5e-6)
        self.make_target()

    def make_target(self) -> None:
        self.target = copy.deepcopy(nn.Sequential(self.encoder, self.projector))
        self.target.requires_grad_(requires_grad=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        predictions = [self.predictor(self.projector(self.encoder(v))) for v in (first, second)]
        with torch.no_grad():
            targets = [self.target(view) for view in (first, second)]
        return regression(predictions[0], targets[1]) + regression(predictions[1], targets[0])

    def update(self, step: int) -> None:
        """A step of LARS; then the target follows."""
        rate = warm_cosine(self.peak, step, self.warmup, self.steps)
        self.descent.step(lambda p: rate)
        self.follow(step, self.steps)

    @torch.no_grad()
    def follow(self, step: int, steps: int, base: float = 0.996) -> None:
        """Move the target by the cosine schedule of the momentum, a float32 number."""
        tau = float(torch.tensor(1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2))
        online = [*self.encoder.parameters(), *self.projector.parameters()]
        for slow, fast in zip(self.target.parameters(), online, strict=True):
            slow.copy_(tau * slow + (1 - tau) * fast)


def regression(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance of the unit vectors, mean over the batch."""
    x, y = x / x.norm(dim=-1, keepdim=True), y / y.norm(dim=-1, keepdim=True)
    return (x - y).square().sum(-1).mean()
