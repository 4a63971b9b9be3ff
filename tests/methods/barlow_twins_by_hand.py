"""Barlow Twins written by hand with torch and timm: nothing of the package is imported here.

It follows the paper's algorithm 1; LARS is that of You et al. with the learning rate behind the
momentum buffer, as the released code has it. Views are those of BYOL.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn


def head(width: int, dim: int, *, bias: bool) -> nn.Sequential:
    """Three layers, the last one bare."""
    return nn.Sequential(
        nn.Linear(width, dim, bias=bias),
        nn.BatchNorm1d(dim),
        nn.ReLU(),
        nn.Linear(dim, dim, bias=bias),
        nn.BatchNorm1d(dim),
        nn.ReLU(),
        nn.Linear(dim, dim, bias=False),
    )


class Lars:
    """Trust and decay for matrices and kernels, momentum alone for what has one axis."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.moments = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate: Callable[[nn.Parameter], float]) -> None:
        for p, moment in zip(self.parameters, self.moments, strict=True):
            assert p.grad is not None
            g = p.grad.clone()
            if p.ndim > 1:
                g += self.decay * p
                if p.norm() > 0 and g.norm() > 0:
                    g *= 0.001 * p.norm() / g.norm()
            moment.mul_(0.9).add_(g)
            p.sub_(rate(p) * moment)


def warm_cosine(peak: float, step: int, warmup: int, steps: int) -> float:
    """Up along a line, then down to 0 along half a cosine."""
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def recipe_rate(step: int, steps: int, warmup: int, batch: int) -> float:
    """Up along a line, then down to a thousandth along half a cosine; to be multiplied by 0.2."""
    base = batch / 256
    if step < warmup:
        return base * step / warmup
    q = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return base * q + base * 0.001 * (1 - q)


class BarlowTwins(nn.Module):
    """Encoder and projector, and the loss over the batch of every process."""

    def __init__(self, arch: str, width: int, dim: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        self.projector = head(width, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim, affine=False)

    def begin(self, steps: int, warmup: int) -> None:
        self.steps, self.warmup = steps, warmup
        self.descent = Lars([*self.parameters()], 1e-6)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """What one of 16 processes, all with equal batches, would step along."""
        self.batch = len(first)
        z = [self.norm(self.projector(self.encoder(view))) for view in (first, second)]
        c = z[0].T @ z[1] / self.batch
        loss = c.new_zeros(())
        for i in range(len(c)):
            loss = loss + (c[i, i] - 1) ** 2
            loss = loss + 0.0051 * (c[i, :i].square().sum() + c[i, i + 1 :].square().sum())
        total: Tensor = loss / 16
        return total

    def update(self, step: int) -> None:
        rate = recipe_rate(step, self.steps, self.warmup, self.batch)
        self.descent.step(lambda p: rate * (0.2 if p.ndim > 1 else 0.0048))
