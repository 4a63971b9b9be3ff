"""NNCLR written by hand with torch and timm: nothing of the package is imported here.

It follows the paper's algorithm 1, one row after the other; views are those of SimCLR.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from tests.methods.barlow_twins_by_hand import Lars, warm_cosine


class Nnclr(nn.Module):
    """Encoder, projector and predictor, and a list of rows with the oldest first."""

    def __init__(self, arch: str, width: int, hidden: int, dim: int, wide: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        self.projector = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim, bias=False),
            nn.BatchNorm1d(dim),
        )
        self.predictor = nn.Sequential(
            nn.Linear(dim, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, dim)
        )

    def begin(self, rows: Tensor, peak: float, steps: int, warmup: int, temperature: float) -> None:
        """Take over the first rows of the queue, and make the optimizer."""
        self.rows, self.temperature = list(rows), temperature
        self.peak, self.steps, self.warmup = peak, steps, warmup
        self.descent = Lars([*self.parameters()], 1e-6)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Half of both directions; the projections of the first view go into the queue."""
        z = [self.projector(self.encoder(view)) for view in (first, second)]
        p = [self.predictor(projection) for projection in z]
        total: Tensor = (self.loss(z[0], p[1]) + self.loss(z[1], p[0])) / 2
        for row in z[0].detach():
            self.rows = [*self.rows[1:], row / row.norm()]
        return total

    def loss(self, z: Tensor, p: Tensor) -> Tensor:
        """The neighbour of each row of z among all predictions."""
        guesses = [row / row.norm() for row in p]
        terms = []
        for place, row in enumerate(z.detach()):
            cosines = [float(row @ other) / float(row.norm() * other.norm()) for other in self.rows]
            neighbour = self.rows[max(range(len(cosines)), key=cosines.__getitem__)]
            neighbour = neighbour / neighbour.norm()
            scores = torch.stack([neighbour @ guess for guess in guesses]) / self.temperature
            terms.append(scores.exp().sum().log() - scores[place])
        return torch.stack(terms).mean()

    def update(self, step: int) -> None:
        """A step of LARS."""
        rate = warm_cosine(self.peak, step, self.warmup, self.steps)
        self.descent.step(lambda p: rate)
