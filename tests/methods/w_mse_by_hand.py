"""W-MSE written by hand with torch and timm: nothing of the package is imported here.

It follows the paper's section 3, one part after the other. The order in which images are dealt out
to parts comes from the documented hash formula.
"""

from __future__ import annotations

from itertools import combinations

import kornia
import timm
import torch
from torch import Tensor, nn

from tests.methods.simclr_by_hand import Sample, by_image, crop, jitter, mix, normalised, text_key


def make_view(image: Tensor, draw: Sample, size: int) -> Tensor:
    """One view of one image: colours, then crop, flip, blur, normalise."""
    if draw.uniform("jitter/0/hit") < 0.8:
        image = jitter(image, draw, (0.8, 0.8, 0.8, 0.2))
    if draw.uniform("gray/0/hit") < 0.2:
        image = kornia.color.rgb_to_grayscale(image[None]).repeat(1, 3, 1, 1)[0]
    image = crop(image, draw, 0.08, 1.0, size, "bicubic")
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    if draw.uniform("blur/0/hit") < 0.5:
        taps = 2 * (size // 20) + 1
        sigma = draw.uniform("blur/0/sigma", 0.1, 2.0).expand(1, 2)
        image = kornia.filters.gaussian_blur2d(image[None], (taps, taps), sigma)[0]
    return normalised(image)


def make_views(images: Tensor, seed: int, node: str, size: int) -> Tensor:
    """Both views of a batch, 2 B C size size."""
    return by_image(images, seed, node, lambda i, draw, view: make_view(i, draw, size), 2)


def deal(seed: int, node: str, iteration: int, position: list[int]) -> list[int]:
    """The order in which samples are dealt out to parts."""
    key = text_key(f"{seed}/{node}") & ((1 << 63) - 1)
    words = [mix(text_key("whiten"), key, iteration, place) for place in position]
    signed = [word - (1 << 64) if word >> 63 else word for word in words]
    return sorted(range(len(position)), key=signed.__getitem__)


class WMse(nn.Module):
    """Encoder and head."""

    def __init__(self, arch: str, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def begin(self, part: int, seed: int, iterations: int, rates: list[float]) -> None:
        """Set what the loss needs, and make the optimizer with a rate for each step."""
        self.part, self.seed, self.iterations, self.rates = part, seed, iterations, rates
        self.calls = 0
        self.descent = torch.optim.Adam(self.parameters(), weight_decay=1e-6)

    def forward(self, *views: Tensor) -> Tensor:
        """The mean over pairs of views and iterations."""
        batch = len(views[0])
        h = self.head(torch.cat([self.encoder(view) for view in views])).chunk(len(views))
        position = [self.calls * batch + row for row in range(batch)]
        self.calls += 1
        terms = []
        for iteration in range(self.iterations):
            order = deal(self.seed, "white", iteration, position)
            z = [torch.empty_like(each) for each in h]
            for start in range(0, batch, self.part):
                rows = order[start : start + self.part]
                for given, white in zip(h, z, strict=True):
                    white[rows] = whiten(given[rows])
            unit = [each / each.norm(dim=1, keepdim=True) for each in z]
            for a, b in combinations(unit, 2):
                terms.append((2 - 2 * (a * b).sum(1)).mean())
        return torch.stack(terms).mean()

    def update(self, step: int) -> None:
        """A step of Adam."""
        self.descent.param_groups[0]["lr"] = self.rates[step]
        self.descent.step()


def whiten(x: Tensor) -> Tensor:
    """Mean 0 and covariance 1: the inverse of the Cholesky factor."""
    factor = torch.linalg.cholesky(torch.cov(x.T))
    white: Tensor = (x - x.mean(0)) @ torch.linalg.inv(factor).T
    return white
