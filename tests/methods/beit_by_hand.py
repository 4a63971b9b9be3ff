"""BEiT written by hand with torch and Pillow: nothing of the package is imported here.

The transformer is written out from the paper's appendix and its released code; modules have timm's
names, so that weights can be handed over. Views come from the documented hash formula.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.masked_by_hand import normalized, patches_normalized, samples
from tests.methods.simclr_by_hand import box, crop, jitter


def make_views(images: Tensor, seed: int, size: int, tokens: int) -> tuple[Tensor, Tensor]:
    """For each image what the model and what the tokenizer sees: one draw, two resolutions."""
    first, second = [], []
    for image, draw in zip(images, samples(len(images), seed, "crops.model"), strict=True):
        whole = jitter(image, draw, (0.4, 0.4, 0.4, 0.0))
        if draw.uniform("flip/0/hit") < 0.5:
            whole = whole.flip(-1)
        first.append(normalized(crop(whole, draw, 0.08, 1.0, size, "bicubic")))
        top, left, height, width = box(draw, 0.08, 1.0, *whole.shape[1:])
        part = whole[:, top : top + height, left : left + width]
        planes = [
            Image.fromarray(plane).resize((tokens, tokens), Image.Resampling.LANCZOS)
            for plane in part.numpy()
        ]
        small = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
        second.append(small.clamp(0, 1) * 0.8 + 0.1)
    return torch.stack(first), torch.stack(second)


def classes(images: Tensor, directions: Tensor, side: int) -> Tensor:
    """For each patch the direction with the largest product with its normalised pixels."""
    x = patches_normalized(images, side)
    return torch.einsum("nld,kd->nlk", x, directions.to(x)).argmax(-1)


def relative_places(side: int) -> Tensor:
    """Rows of the table for each pair of tokens; three more for the class token."""
    wide = 2 * side - 1
    count = wide * wide + 3
    index = torch.zeros(side * side + 1, side * side + 1, dtype=torch.int64)
    for i in range(side * side):
        for j in range(side * side):
            down, across = i // side - j // side, i % side - j % side
            index[i + 1, j + 1] = (down + side - 1) * wide + across + side - 1
    index[0, :], index[:, 0], index[0, 0] = count - 3, count - 2, count - 1
    return index


class Attention(nn.Module):
    """Queries and values have a bias, keys have none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = functional.linear(x, self.qkv.weight).chunk(3, dim=-1)
        q, v = q + self.q_bias, v + self.v_bias
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
        y: Tensor = self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Attention and MLP, each scaled by factors of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Attention(width, heads)
        layers = {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.ModuleDict(layers)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(width)) for _ in range(2))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), bias)
        inner = functional.gelu(self.mlp["fc1"](self.norm2(x)))
        y: Tensor = x + self.gamma_2 * self.mlp["fc2"](inner)
        return y


class Beit(nn.Module):
    """The transformer, its head and its loss; `side` patches a row."""

    def __init__(self, width: int, depth: int, heads: int, side: int, patch: int, out: int) -> None:
        super().__init__()
        self.encoder = nn.Module()
        parts: Any = self.encoder
        parts.patch_embed = nn.Module()
        parts.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        parts.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        parts.rel_pos_bias = nn.Module()
        rows = (2 * side - 1) ** 2 + 3
        table = nn.Parameter(torch.zeros(rows, heads))
        parts.rel_pos_bias.relative_position_bias_table = table
        parts.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        parts.norm = nn.LayerNorm(width, eps=1e-6)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.head = nn.Linear(width, out)
        self.places = relative_places(side)

    def forward(self, images: Tensor, hidden: Tensor, ids: Tensor) -> Tensor:
        """The mean cost of all hidden patches of the batch: hidden and ids are B N."""
        parts: Any = self.encoder
        x = parts.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.where(hidden[:, :, None], self.mask_token, x)
        x = torch.cat([parts.cls_token.expand(len(x), -1, -1), x], 1)
        bias = parts.rel_pos_bias.relative_position_bias_table[self.places].permute(2, 0, 1)
        for block in parts.blocks:
            x = block(x, bias)
        x = parts.norm(x)[:, 1:]
        return functional.cross_entropy(self.head(x[hidden]), ids[hidden])
