"""MAE written by hand with torch, timm and kornia: nothing of the package is imported here.

It follows the published code: the blocks are timm's, what lies between them is written out. The
random parameters come from the documented formula (nested SplitMix64 of seed, node, view,
position).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import kornia
import numpy as np
import timm
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tests.methods.simclr_by_hand import Sample, crop, mix, text_key

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_view(image: Tensor, draw: Sample, size: int) -> Tensor:
    """One view of one image: crop, flip, normalise."""
    image = crop(image, draw, 0.2, 1.0, size, "bicubic")
    if draw.uniform("flip/0/hit") < 0.5:
        image = kornia.geometry.transform.hflip(image[None])[0]
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (image - mean) / std


def make_views(images: Tensor, seed: int, size: int) -> Tensor:
    """A view of each image."""
    keys = [mix(seed, text_key("view"), 0, place) for place in range(len(images))]
    made = [make_view(x, Sample(key), size) for x, key in zip(images, keys, strict=True)]
    return torch.stack(made)


def orders(batch: int, seed: int, places: int) -> Tensor:
    """For each image an order of its places; the first ones stay visible."""
    keys = [mix(seed, text_key("mask"), 0, place) for place in range(batch)]
    return torch.tensor([Sample(key).order("order", places) for key in keys])


def positions(width: int, side: int) -> Tensor:
    """The table of the published code: columns first, then rows; a row of zeros for the class."""
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side))).reshape(2, -1)
    speeds = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    parts = []
    for coordinate in grid:
        angles = np.outer(coordinate, speeds)
        parts += [np.sin(angles), np.cos(angles)]
    table = np.concatenate([np.zeros((1, width)), np.concatenate(parts, 1)])
    return torch.from_numpy(table).float()[None]


def patches(images: Tensor, side: int) -> Tensor:
    """B places pixels, channels last within a patch."""
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // side, side, width // side, side)
    return torch.einsum("nchpwq->nhwpqc", x).reshape(batch, -1, side * side * channels)


class Mae(nn.Module):
    """Encoder, decoder and loss."""

    def __init__(
        self, arch: str, size: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        encoder: Any = timm.create_model(arch, num_classes=0, img_size=size)
        encoder.pos_embed.requires_grad = False
        self.encoder = encoder
        self.patch, self.side = patch, size // patch
        self.embed = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(width)
        self.head = nn.Linear(width, patch * patch * 3)
        self.tables = {d: positions(d, self.side) for d in (int(encoder.embed_dim), width)}

    def latent(self, images: Tensor, order: Tensor, ratio: float) -> Tensor:
        """Class token and visible places, in raster order."""
        encoder: Any = self.encoder
        x = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2)
        table = self.tables[x.shape[2]].to(x)
        x = x + table[:, 1:]
        count = int(x.shape[1] * (1 - ratio))
        keep = order[:, :count].sort(1).values
        x = torch.gather(x, 1, keep[:, :, None].repeat(1, 1, x.shape[2]))
        x = torch.cat([(encoder.cls_token + table[:, :1]).expand(len(x), -1, -1), x], 1)
        for block in encoder.blocks:
            x = block(x)
        normed: Tensor = encoder.norm(x)
        return normed

    def forward(self, images: Tensor, order: Tensor, ratio: float) -> Tensor:
        """The loss: the mean over hidden patches of the mean over their normalised pixels."""
        x = self.embed(self.latent(images, order, ratio))
        batch, places = order.shape
        count = x.shape[1] - 1
        # what is visible stands in raster order, so the way back is that of the same order
        shuffled = torch.cat([order[:, :count].sort(1).values, order[:, count:]], 1)
        restore = shuffled.argsort(1)
        holes = self.mask_token.repeat(batch, places - count, 1)
        y = torch.cat([x[:, 1:], holes], 1)
        y = torch.gather(y, 1, restore[:, :, None].repeat(1, 1, y.shape[2]))
        y = torch.cat([x[:, :1], y], 1) + self.tables[y.shape[2]].to(y)
        for block in self.blocks:
            y = block(y)
        predicted = self.head(self.norm(y))[:, 1:]
        target = patches(images, self.patch)
        mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        error = ((predicted - (target - mean) / (variance + 1e-6) ** 0.5) ** 2).mean(-1)
        hidden = torch.ones(batch, places).to(error)
        hidden[:, :count] = 0
        hidden = torch.gather(hidden, 1, restore)
        loss: Tensor = (error * hidden).sum() / hidden.sum()
        return loss
