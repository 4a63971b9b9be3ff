"""MoCo v2 written by hand with torch, timm and kornia: nothing of the package is imported here.

It follows the papers' pseudocode. Each group of a process's images goes through the networks as a
batch of its own, as on so many GPUs; the key branch sees the images in a shuffled order. Views and
shuffles come from the documented hash formulas.
"""

from __future__ import annotations

import copy

import kornia
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.simclr_by_hand import Sample, by_image, crop, jitter, mix, normalised, text_key


def make_view(image: Tensor, draw: Sample, size: int) -> Tensor:
    """One view of one image: crop, jitter, gray, blur, flip, normalise."""
    image = crop(image, draw, 0.2, 1.0, size, "bilinear")
    if draw.uniform("jitter/0/hit") < 0.8:
        image = jitter(image, draw, (0.4, 0.4, 0.4, 0.1))
    if draw.uniform("gray/0/hit") < 0.2:
        image = kornia.color.rgb_to_grayscale(image[None]).repeat(1, 3, 1, 1)[0]
    if draw.uniform("blur/0/hit") < 0.5:
        taps = 2 * (size // 20) + 1
        sigma = draw.uniform("blur/0/sigma", 0.1, 2.0).expand(1, 2)
        image = kornia.filters.gaussian_blur2d(image[None], (taps, taps), sigma)[0]
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    return normalised(image)


def make_views(images: Tensor, seed: int, node: str, size: int) -> Tensor:
    """Query and key views of a batch, 2 B C size size."""
    return by_image(images, seed, node, lambda i, draw, view: make_view(i, draw, size), 2)


def shuffle(seed: int, node: str, call: int, count: int) -> list[int]:
    """The order in which a node sees its images at one of its calls."""
    key = text_key(f"{seed}/{node}") & ((1 << 63) - 1)
    words = [mix(text_key("shuffle"), key, call, row) for row in range(count)]
    signed = [word - (1 << 64) if word >> 63 else word for word in words]
    return sorted(range(count), key=signed.__getitem__)


class Moco(nn.Module):
    """Query and key networks, and a queue of keys with the place where the next ones go."""

    def __init__(self, arch: str, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def begin(self, queue: Tensor, groups: int, temperature: float) -> None:
        """Copy the networks and take over the first rows of the queue, K x D."""
        self.slow_encoder = copy.deepcopy(self.encoder).requires_grad_(requires_grad=False)
        self.slow_projector = copy.deepcopy(self.projector).requires_grad_(requires_grad=False)
        self.queue, self.pointer = queue.clone(), 0
        self.groups, self.temperature = groups, temperature

    def forward(self, first: Tensor, second: Tensor, order: list[int]) -> Tensor:
        """The loss of a batch; its keys go into the queue."""
        q = functional.normalize(self.projector(self._apart(self.encoder, first)), dim=-1)
        with torch.no_grad():
            shuffled = self._apart(self.slow_encoder, second[order])
            features = torch.empty_like(shuffled)
            for place, row in enumerate(order):
                features[row] = shuffled[place]
            k = functional.normalize(self.slow_projector(features), dim=-1)
        positive = (q * k).sum(-1, keepdim=True)
        logits = torch.cat([positive, q @ self.queue.T], dim=1) / self.temperature
        loss = functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))
        self.queue = self.queue.clone()
        for key in k:
            self.queue[self.pointer] = key
            self.pointer = (self.pointer + 1) % len(self.queue)
        return loss

    def _apart(self, network: nn.Module, images: Tensor) -> Tensor:
        """Each group with batch statistics of its own."""
        return torch.cat([network(part) for part in images.chunk(self.groups)])

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Equation 2 of the first paper."""
        slow = [*self.slow_encoder.parameters(), *self.slow_projector.parameters()]
        fast = [*self.encoder.parameters(), *self.projector.parameters()]
        for key, query in zip(slow, fast, strict=True):
            key.copy_(momentum * key + (1 - momentum) * query)
