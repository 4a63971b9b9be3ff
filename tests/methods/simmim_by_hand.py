"""SimMIM written by hand with torch and timm: nothing of the package is imported here.

It follows the published code: hidden squares as a mask of pixels, a 1 x 1 convolution with pixel
shuffle as the decoder, and the sum of absolute errors over hidden pixels. The blocks are timm's.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.methods.masked_by_hand import samples


def make_masks(batch: int, seed: int, cells: int, ratio: float) -> Tensor:
    """For each image a square grid of cells, 1 where hidden."""
    masks = torch.ones(batch, cells * cells)
    for row, draw in zip(masks, samples(batch, seed, "mask"), strict=True):
        order = draw.order("order", cells * cells)
        row[order[: int(cells * cells * (1 - ratio))]] = 0
    return masks.view(batch, cells, cells)


class Simmim(nn.Module):
    """Encoder, decoder and loss."""

    def __init__(self, arch: str, size: int, stride: int, **args: Any) -> None:
        super().__init__()
        encoder: Any = timm.create_model(arch, num_classes=0, img_size=size, **args)
        self.encoder = encoder
        self.patch = encoder.patch_embed.patch_size[0]
        width = encoder.patch_embed.proj.out_channels
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = nn.Conv2d(encoder.num_features, stride * stride * 3, 1)
        self.shuffle = nn.PixelShuffle(stride)

    def features(self, images: Tensor, hidden: Tensor) -> Tensor:
        """The map behind the final norm, B D rows columns; hidden is B rows columns of patches."""
        encoder: Any = self.encoder
        x = encoder.patch_embed(images)
        shape = x.shape
        w = hidden.flatten(1)[:, :, None].to(x)
        x = x.reshape(len(x), -1, shape[-1])
        x = x * (1 - w) + self.mask_token * w
        if hasattr(encoder, "layers"):
            x = encoder.norm(encoder.layers(x.reshape(shape)))
            mapped: Tensor = x.permute(0, 3, 1, 2)
            return mapped
        x = torch.cat([encoder.cls_token.expand(len(x), -1, -1), x], 1)
        bias = encoder.rel_pos_bias()
        for block in encoder.blocks:
            x = block(x, shared_rel_pos_bias=bias)
        rows: Tensor = encoder.norm(x)[:, 1:]
        return rows.transpose(1, 2).reshape(len(x), -1, *hidden.shape[1:])

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss, as the published code has it; masks are B cells cells."""
        cell = images.shape[2] // masks.shape[1]
        times = cell // self.patch
        hidden = masks.repeat_interleave(times, 1).repeat_interleave(times, 2)
        rebuilt = self.shuffle(self.decoder(self.features(images, hidden)))
        pixels = hidden.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return loss_of(images, rebuilt, pixels[:, None].to(images))


def loss_of(images: Tensor, rebuilt: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error over hidden pixels and three channels; pixels B 1 H W, 1 if hidden."""
    errors = (images - rebuilt).abs()
    return (errors * pixels).sum() / (pixels.sum() + 1e-5) / 3


def rows_of_decoder(stride: int) -> Tensor:
    """For each number of a patch (row, column, channel) its channel before the pixel shuffle."""
    row, column, channel = torch.meshgrid(
        torch.arange(stride), torch.arange(stride), torch.arange(3), indexing="ij"
    )
    return (channel * stride * stride + row * stride + column).flatten()
