"""SimSiam written by hand with torch and timm: nothing of the package is imported here.

It follows the paper's algorithm 1 and its section 4 on optimization; views are those of MoCo v2.
"""

from __future__ import annotations

import math

import timm
import torch
from torch import Tensor, nn


class SimSiam(nn.Module):
    """Encoder f with its projection MLP, and predictor h."""

    def __init__(self, arch: str, width: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        self.projector = nn.Sequential(
            nn.Linear(width, dim, bias=False),
            nn.BatchNorm1d(dim),
            nn.ReLU(),
            nn.Linear(dim, dim, bias=False),
            nn.BatchNorm1d(dim),
            nn.ReLU(),
            nn.Linear(dim, dim, bias=False),
            nn.BatchNorm1d(dim, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
        )

    def begin(self, peak: float, epochs: int, steps_per_epoch: int) -> None:
        """Make the optimizer; its first group decays, the second one stays."""
        self.peak, self.epochs, self.steps_per_epoch = peak, epochs, steps_per_epoch
        both = [*self.encoder.parameters(), *self.projector.parameters()]
        groups = [{"params": both}, {"params": [*self.predictor.parameters()]}]
        self.descent = torch.optim.SGD(groups, peak, momentum=0.9, weight_decay=1e-4)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Half of both directions."""
        z = [self.projector(self.encoder(view)) for view in (first, second)]
        p = [self.predictor(projection) for projection in z]
        total: Tensor = (distance(p[0], z[1]) + distance(p[1], z[0])) / 2
        return total

    def update(self, step: int) -> None:
        """A step at the learning rate of its epoch."""
        epoch = step // self.steps_per_epoch
        falling = self.peak * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        self.descent.param_groups[0]["lr"] = falling
        self.descent.step()


def distance(p: Tensor, z: Tensor) -> Tensor:
    """Equation 1, its target without gradient."""
    p, z = (x / x.norm(dim=1, keepdim=True) for x in (p, z.detach()))
    cosines: Tensor = (p * z).sum(1)
    return -cosines.mean()
