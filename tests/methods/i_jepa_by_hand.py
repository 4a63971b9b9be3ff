"""I-JEPA written by hand with torch and timm: nothing of the package is imported here.

It follows the published code: blocks are timm's, what lies between them is written out, one image
after the other. The random parameters come from the documented formula (nested SplitMix64 of seed,
node, view, position).
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

from tests.methods.mae_by_hand import positions
from tests.methods.masked_by_hand import Decoding
from tests.methods.simclr_by_hand import Sample, mix, text_key


class Masks(NamedTuple):
    """Places in raster order: those of each image's context, and of each image's blocks."""

    context: list[list[int]]
    targets: list[list[list[int]]]


def block_size(draw: float, side: int, scale: tuple[float, float], aspect: Any) -> tuple[int, int]:
    """Height and width; one draw decides on both."""
    area = int(side * side * (scale[0] + draw * (scale[1] - scale[0])))
    ratio = aspect[0] + draw * (aspect[1] - aspect[0])
    high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(high, side - 1), min(wide, side - 1)


def block(draw: Sample, name: str, size: tuple[int, int], side: int) -> set[int]:
    """A rectangle; its corner is never the last possible one."""
    top = draw.integer(f"{name}/top", 0, side - size[0] - 1)
    left = draw.integer(f"{name}/left", 0, side - size[1] - 1)
    return {
        row * side + column
        for row in range(top, top + size[0])
        for column in range(left, left + size[1])
    }


def make_masks(index: range, samples: int, seed: int, side: int, min_keep: int) -> Masks:
    """Context and blocks of a batch, cut to the fewest places."""
    sizes = Sample(mix(seed, text_key("blocks"), 0, index.start // samples))
    target = block_size(sizes.uniform("size/target").item(), side, (0.15, 0.2), (0.75, 1.5))
    square = block_size(sizes.uniform("size/context").item(), side, (0.85, 1.0), (1.0, 1.0))
    contexts, targets = [], []
    for place in index:
        draw = Sample(mix(seed, text_key("blocks"), 0, place))
        blocks = [block(draw, f"target/{number}", target, side) for number in range(4)]
        tries = 0
        while True:
            free = block(draw, f"context/{tries}", square, side)
            for other in blocks[: 4 - tries // 20]:
                free = free - other
            if len(free) > min_keep:
                break
            tries += 1
        contexts.append(sorted(free))
        targets.append([sorted(places) for places in blocks])
    fewest = min(map(len, contexts))
    return Masks([places[:fewest] for places in contexts], targets)


class IJepa(Decoding):
    """Context encoder, predictor, slow encoder of the whole image, and loss."""

    def __init__(self, arch: str, size: int, patch: int, width: int, depth: int, heads: int):
        shape: Any = {"img_size": size, "patch_size": patch}
        tokens: Any = {"class_token": False, "global_pool": "avg", "fc_norm": False}
        encoder: Any = timm.create_model(arch, num_classes=0, **shape, **tokens)
        super().__init__(encoder.embed_dim, width, depth, heads, encoder.embed_dim)
        encoder.pos_embed.requires_grad = False
        self.encoder = encoder
        side = size // patch
        self.tables = {d: positions(d, side)[0, 1:] for d in (int(encoder.embed_dim), width)}

    def make_teacher(self) -> None:
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(requires_grad=False)

    def encoded(self, encoder: Any, image: Tensor, places: list[int] | None) -> Tensor:
        """Tokens of one image, 1 n D, of all places or of some."""
        x = encoder.patch_embed.proj(image[None]).flatten(2).transpose(1, 2)
        x = x + self.tables[x.shape[2]].to(x)
        if places is not None:
            x = x[:, places]
        for part in encoder.blocks:
            x = part(x)
        normed: Tensor = encoder.norm(x)
        return normed

    def predicted(self, context: Tensor, seen: list[int], asked: list[int]) -> Tensor:
        """Tokens of one block of one image."""
        table = self.tables[self.norm.normalized_shape[0]].to(context)
        x = torch.cat([self.embed(context) + table[seen], self.mask_token + table[asked]], 1)
        for part in self.blocks:
            x = part(x)
        y: Tensor = self.head(self.norm(x)[:, len(seen) :])
        return y

    def forward(self, images: Tensor, masks: Masks, beta: float = 1.0) -> Tensor:
        """Smooth L1, the mean over blocks, images, places and numbers."""
        errors = []
        for image, seen, blocks in zip(images, *masks, strict=True):
            context = self.encoded(self.encoder, image, seen)
            with torch.no_grad():
                whole = self.encoded(self.teacher, image, None)
                mean, variance = whole.mean(-1, keepdim=True), whole.var(-1, False, keepdim=True)
                whole = (whole - mean) / (variance + 1e-5).sqrt()
            for asked in blocks:
                d = (self.predicted(context, seen, asked) - whole[:, asked]).abs()
                errors.append(torch.where(d < beta, d**2 / (2 * beta), d - beta / 2))
        return torch.stack(errors).mean()

    @torch.no_grad()
    def follow(self, step: int, steps: int, base: float = 0.996) -> None:
        """Move the slow encoder; the momentum is a float32 number."""
        momentum = float(torch.tensor(base + step * (1 - base) / steps))
        pairs = zip(self.teacher.parameters(), self.encoder.parameters(), strict=True)
        for slow, fast in pairs:
            slow.copy_(momentum * slow + (1 - momentum) * fast)
