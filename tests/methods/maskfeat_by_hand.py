"""MaskFeat written by hand with torch and timm's blocks: nothing of the package is imported here.

It follows the published code: histograms by a convolution and `scatter_add`, the blocks are timm's,
what lies between them is written out.
"""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.masked_by_hand import normalized, samples
from tests.methods.simclr_by_hand import crop


def make_views(images: Tensor, seed: int, size: int) -> Tensor:
    """A view of each image: a crop of at least half of it, flip, normalise; no colours."""
    made = []
    for image, draw in zip(images, samples(len(images), seed, "view"), strict=True):
        view = crop(image, draw, 0.5, 1.0, size, "bicubic")
        made.append(view.flip(-1) if draw.uniform("flip/0/hit") < 0.5 else view)
    return normalized(torch.stack(made))


def histograms(images: Tensor, patch: int, cell: int, bins: int = 9) -> Tensor:
    """B patches numbers: channel, bin, row of cells, column of cells.

    In float64, where a slope at the mirrored border is 0 and not nearly 0, which is another bin.
    """
    kind, images = images.dtype, images.double()
    batch, channels, height, width = images.shape
    across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).to(images)
    kernels = torch.stack([across, across.T]).repeat(channels, 1, 1)[:, None]
    padded = functional.pad(images, (1, 1, 1, 1), mode="reflect")
    slopes = functional.conv2d(padded, kernels, groups=channels).unflatten(1, (channels, 2))
    gx, gy = slopes.unbind(2)
    number = (torch.atan2(gx, gy) / math.pi * bins).floor().long() % bins
    found = images.new_zeros(batch, channels, bins, height, width)
    found.scatter_add_(2, number[:, :, None], torch.hypot(gx, gy)[:, :, None])
    found = functional.avg_pool2d(found.flatten(1, 2), cell) * cell * cell
    found = functional.normalize(found.unflatten(1, (channels, bins)), dim=2).flatten(1, 2)
    side = patch // cell
    rows = functional.unfold(found, side, stride=side)
    return rows.transpose(1, 2).to(kind)


class MaskFeat(nn.Module):
    """Encoder, linear head and loss."""

    def __init__(self, arch: str, size: int, patch: int, cell: int, **args: Any) -> None:
        super().__init__()
        encoder: Any = timm.create_model(arch, num_classes=0, img_size=size, **args)
        self.encoder = encoder
        self.patch, self.cell = patch, cell
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.embed_dim))
        self.head = nn.Linear(encoder.embed_dim, 3 * 9 * (patch // cell) ** 2)

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """The mean square over all numbers of all hidden patches of the batch."""
        encoder: Any = self.encoder
        x = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2)
        w = hidden[:, :, None].to(x)
        x = x * (1 - w) + self.mask_token * w
        x = torch.cat([encoder.cls_token.expand(len(x), -1, -1), x], 1) + encoder.pos_embed
        for block in encoder.blocks:
            x = block(x)
        predicted = self.head(encoder.norm(x)[:, 1:][hidden])
        target = histograms(images, self.patch, self.cell)[hidden]
        loss: Tensor = ((predicted - target) ** 2).mean()
        return loss
