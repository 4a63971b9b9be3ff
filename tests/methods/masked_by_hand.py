"""What masked methods by hand have in common; nothing of the package is imported here.

The random parameters come from the documented formula (nested SplitMix64 of seed, node, view,
position).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tests.methods.simclr_by_hand import Sample, crop, mix, text_key

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, as torchvision has them."""


def normalized(image: Tensor) -> Tensor:
    """Pixels of C H W or B C H W with ImageNet's mean and deviation taken out."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (image - mean) / std


def samples(count: int, seed: int, node: str) -> list[Sample]:
    """The draws of a node for the one view of the first images."""
    return [Sample(mix(seed, text_key(node), 0, place)) for place in range(count)]


def make_views(
    images: Tensor, seed: int, size: int, smallest: float, how: str, *, flip: bool = True
) -> Tensor:
    """A view of each image: crop of at least `smallest` of it, flip, normalise."""
    made = []
    for image, draw in zip(images, samples(len(images), seed, "view"), strict=True):
        view = crop(image, draw, smallest, 1.0, size, how)
        flipped = flip and draw.uniform("flip/0/hit") < 0.5
        made.append(view.flip(-1) if flipped else view)
    return normalized(torch.stack(made))


def patches(images: Tensor, side: int) -> Tensor:
    """B places pixels, channels last within a patch."""
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // side, side, width // side, side)
    return torch.einsum("nchpwq->nhwpqc", x).reshape(batch, -1, side * side * channels)


def patches_normalized(images: Tensor, side: int) -> Tensor:
    """Patches with mean 0 and, but for 1e-6, unbiased variance 1, all channels together."""
    x = patches(images, side)
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()


class Decoding(nn.Module):
    """What is behind the encoder: blocks of another width with a token for what is not there."""

    def __init__(self, taken: int, width: int, depth: int, heads: int, out: int) -> None:
        super().__init__()
        self.embed = nn.Linear(taken, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(width)
        self.head = nn.Linear(width, out)
