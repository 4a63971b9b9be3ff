"""VICReg written by hand with torch and timm: nothing of the package is imported here.

It follows the paper's algorithm 1 but for the mean of both variance terms, which the released code
takes; views are those of BYOL, the optimizer is that of Barlow Twins.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from tests.methods.barlow_twins_by_hand import Lars, head, recipe_rate


class VicReg(nn.Module):
    """Encoder and expander."""

    def __init__(self, arch: str, width: int, dim: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        self.expander = head(width, dim, bias=True)

    def begin(self, steps: int, warmup: int) -> None:
        self.steps, self.warmup = steps, warmup
        self.descent = Lars([*self.parameters()], 1e-6)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        self.batch = len(first)
        x, y = (self.expander(self.encoder(view)) for view in (first, second))
        spread, covariance = x.new_zeros(()), x.new_zeros(())
        for z in (x, y):
            spread = spread + (1 - torch.sqrt(z.var(0) + 1e-4)).clamp(min=0).mean() / 2
            c = torch.cov(z.T)
            covariance = covariance + (c.square().sum() - c.diag().square().sum()) / len(c)
        total: Tensor = 25 * (x - y).square().mean() + 25 * spread + covariance
        return total

    def update(self, step: int) -> None:
        rate = recipe_rate(step, self.steps, self.warmup, self.batch)
        self.descent.step(lambda p: rate * 0.2)
