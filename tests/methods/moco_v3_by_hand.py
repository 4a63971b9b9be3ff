"""MoCo v3 written by hand with torch and timm: nothing of the package is imported here.

It follows the paper's algorithm 1. The released code moves the slow copy before the keys of a step
are made; here, as in the graph, it moves after the optimizer's step, so that each key comes from
the same weights but for the number of the step in the schedule of the momentum.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import kornia
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.barlow_twins_by_hand import warm_cosine
from tests.methods.byol_by_hand import recoloured
from tests.methods.simclr_by_hand import Sample, by_image, crop, normalised


def make_view(image: Tensor, draw: Sample, view: int, size: int) -> Tensor:
    """One view of one image: crop, jitter, gray, blur, solarize, flip, normalise."""
    image = crop(image, draw, 0.08, 1.0, size, "bilinear")
    image = recoloured(image, draw, view)
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    return normalised(image)


def make_views(images: Tensor, seed: int, node: str, size: int) -> Tensor:
    """Both views of a batch, 2 B C size size."""
    return by_image(images, seed, node, lambda i, draw, view: make_view(i, draw, view, size), 2)


def head(widths: Sequence[int], *, norm: bool) -> nn.Sequential:
    """Layers without biases, each but the last one with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for place, (wide, narrow) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(wide, narrow, bias=False))
        if place < len(widths) - 2:
            layers += [nn.BatchNorm1d(narrow), nn.ReLU()]
        elif norm:
            layers.append(nn.BatchNorm1d(narrow, affine=False))
    return nn.Sequential(*layers)


class MocoV3(nn.Module):
    """Encoder, projector and predictor, and the slow copies of the first two."""

    def __init__(
        self, encoder: nn.Module, projector: nn.Sequential, predictor: nn.Sequential
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.slow = copy.deepcopy(nn.Sequential(encoder, projector))
        self.slow.requires_grad_(requires_grad=False)

    def begin(self, temperature: float, steps: int, warmup: int, peak: float) -> None:
        self.temperature, self.steps, self.warmup, self.peak = temperature, steps, warmup, peak
        trained = [p for p in self.parameters() if p.requires_grad]
        self.descent = torch.optim.AdamW(trained, peak, weight_decay=0.1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Both directions, each times 2 temperature."""
        q = [self.predictor(self.projector(self.encoder(view))) for view in (first, second)]
        with torch.no_grad():
            k = [self.slow(view) for view in (first, second)]
        return self._told(q[0], k[1]) + self._told(q[1], k[0])

    def _told(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = functional.normalize(q, dim=1), functional.normalize(k, dim=1)
        own = torch.arange(len(q))
        return functional.cross_entropy(q @ k.T / self.temperature, own) * 2 * self.temperature

    @torch.no_grad()
    def update(self, step: int) -> None:
        """An optimizer step, then the slow copy moves; its momentum is a float32 number."""
        rate = warm_cosine(self.peak, step, self.warmup, self.steps)
        self.descent.param_groups[0]["lr"] = rate
        self.descent.step()
        m = 1 - 0.5 * (1 + math.cos(math.pi * step / self.steps)) * (1 - 0.99)
        m = float(torch.tensor(m, dtype=torch.float32))
        fast = [*self.encoder.parameters(), *self.projector.parameters()]
        for slow, online in zip(self.slow.parameters(), fast, strict=True):
            slow.copy_(m * slow + (1 - m) * online)


def row_first_positions(rows: int, columns: int, width: int) -> Tensor:
    """The released table, a row of zeros first: its first half follows the row of a place."""
    n = width // 4
    table = torch.zeros(1 + rows * columns, width, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            for k in range(n):
                speed = 10000.0 ** (-k / n)
                values = [f(c * speed) for c in (row, column) for f in (math.sin, math.cos)]
                table[1 + row * columns + column, k::n] = torch.tensor(values, dtype=torch.float64)
    return table


def small_vit() -> nn.Module:
    """Eight heads of 4 numbers on patches of 8 pixels; norms have an eps of 1e-6 as in timm."""
    model: nn.Module = timm.create_model(
        "vit_small_patch16_224",
        num_classes=0,
        img_size=24,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=8,
    )
    return model
