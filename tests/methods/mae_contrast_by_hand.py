"""MAE with a contrastive term, by hand with torch and timm; nothing of the package is imported.

Two views of an image, each with a mask of its own, are rebuilt as MAE does. What the class token
has found in a quarter of the one view is told from that of other images by SimCLR's equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.mae_by_hand import Mae
from tests.methods.simclr_by_hand import Sample, mix, text_key


def orders(seed: int, view: int, positions: Tensor, places: int) -> Tensor:
    """For each image of a view an order of its places; the first ones stay visible."""
    key = text_key("mask")
    draws = [Sample(mix(seed, key, view, place)) for place in positions.tolist()]
    return torch.tensor([draw.order("order", places) for draw in draws])


class MaeContrast(Mae):
    """MAE and a head for the class token, with batch norm of each view on its own."""

    def begin(self, hidden: int, out: int) -> None:
        """Add the head."""
        self.projector = nn.Sequential(
            nn.Linear(self.encoder.num_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
        )

    def both(self, views: Tensor, order: list[Tensor], ratio: float, weight: float) -> Tensor:
        """The loss: the mean of both reconstructions, and so much of the contrastive term."""
        rebuilt = [self(view, places, ratio) for view, places in zip(views, order, strict=True)]
        found = [
            self.projector(self.latent(view, places, ratio)[:, 0])
            for view, places in zip(views, order, strict=True)
        ]
        loss: Tensor = (rebuilt[0] + rebuilt[1]) / 2 + weight * told_apart(*found)
        return loss


def told_apart(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Equation 1 anchor by anchor: its other view among all embeddings but itself."""
    z = functional.normalize(torch.cat([first, second]), dim=-1)
    count = len(first)
    total = z.new_zeros(())
    for anchor in range(2 * count):
        scores = z @ z[anchor] / temperature
        others = [place for place in range(2 * count) if place != anchor]
        total = total + scores[others].logsumexp(0) - scores[(anchor + count) % (2 * count)]
    return total / (2 * count)
