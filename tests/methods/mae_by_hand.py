"""MAE written by hand with torch and timm: nothing of the package is imported here.

It follows the published code: the blocks are timm's, what lies between them is written out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from tests.methods.masked_by_hand import Decoding, patches_normalized, samples


def orders(batch: int, seed: int, places: int) -> Tensor:
    """For each image an order of its places; the first ones stay visible."""
    return torch.tensor([draw.order("order", places) for draw in samples(batch, seed, "mask")])


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


class Mae(Decoding):
    """Encoder, decoder and loss."""

    def __init__(
        self, arch: str, size: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        encoder: Any = timm.create_model(arch, num_classes=0, img_size=size)
        super().__init__(encoder.embed_dim, width, depth, heads, patch * patch * 3)
        encoder.pos_embed.requires_grad = False
        self.encoder = encoder
        self.patch, self.side = patch, size // patch
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
        error = ((predicted - patches_normalized(images, self.patch)) ** 2).mean(-1)
        hidden = torch.ones(batch, places).to(error)
        hidden[:, :count] = 0
        hidden = torch.gather(hidden, 1, restore)
        loss: Tensor = (error * hidden).sum() / hidden.sum()
        return loss
