"""SupCon written by hand with torch and timm: nothing of the package is imported here.

It follows equation 2 one anchor after the other, with the factor of the released code; the first
layers of the network are those for images of 32 pixels.
"""

from __future__ import annotations

import kornia
import timm
import torch
from torch import Tensor, nn

from tests.methods.simclr_by_hand import Sample, by_image, crop, jitter, normalised

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def make_view(image: Tensor, draw: Sample, size: int) -> Tensor:
    """One view of one image: crop, flip, jitter, gray, normalise."""
    image = crop(image, draw, 0.2, 1.0, size, "bilinear")
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    if draw.uniform("jitter/0/hit") < 0.8:
        image = jitter(image, draw, (0.4, 0.4, 0.4, 0.1))
    if draw.uniform("gray/0/hit") < 0.2:
        image = kornia.color.rgb_to_grayscale(image[None]).repeat(1, 3, 1, 1)[0]
    return normalised(image, MEAN, STD)


def make_views(images: Tensor, seed: int, node: str, size: int) -> Tensor:
    """Both views of a batch, 2 B C size size."""
    return by_image(images, seed, node, lambda i, draw, view: make_view(i, draw, size), 2)


class SupCon(nn.Module):
    """Encoder and projection head."""

    def __init__(self, hidden: int, dim: int, temperature: float) -> None:
        super().__init__()
        channels = (8, 16, 24, 32)
        self.encoder = timm.create_model("resnet18", num_classes=0, channels=channels)
        self.encoder.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.encoder.maxpool = nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(channels[-1], hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )
        self.temperature = temperature

    def forward(self, first: Tensor, second: Tensor, label: list[int]) -> Tensor:
        """The mean over all views; both go through the network as one batch."""
        z = self.head(self.encoder(torch.cat([first, second])))
        z = z / z.norm(dim=1, keepdim=True)
        classes = label * 2
        total = z.new_zeros(())
        for i, anchor in enumerate(z):
            others = [j for j in range(len(z)) if j != i]
            scores = {j: anchor @ z[j] / self.temperature for j in others}
            normaliser = torch.stack([*scores.values()]).exp().sum().log()
            positives = [scores[j] - normaliser for j in others if classes[j] == classes[i]]
            total = total - torch.stack(positives).mean()
        loss: Tensor = total / len(z) * self.temperature / 0.07
        return loss
