"""Blocks to predict and the context to predict them from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from sslgraph.hashing import text_key
from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.masks import between, patch_grid
from sslgraph.ports import Identities, In, Member, Out, Ports, Visible
from sslgraph.schedules import Finite, fault

_ATTEMPTS = 20  # to place a context, before one target block less is kept out of it
_TRIED_SIZES = 1000

Share = Annotated[Finite, Field(gt=0, le=1)]
Positive = Annotated[Finite, Field(gt=0)]


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise fault("the lower number stands first", expected="[low, high]")
    return ends


class TargetBlocks(BaseModel):
    """Settings of the blocks that are predicted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: PositiveInt = Field(4, description="blocks of each image, each a view")
    scale: tuple[Share, Share] = Field((0.15, 0.2), description="share of the places in a block")
    aspect: tuple[Positive, Positive] = Field((0.75, 1.5), description="height by width")

    _ordered = field_validator("scale", "aspect")(_in_order)


class ContextBlock(BaseModel):
    """Settings of the square that the context is cut from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[Share, Share] = Field((0.85, 1.0), description="share of the places in it")
    overlap: bool = Field(False, description="whether it keeps the places of target blocks")

    _ordered = field_validator("scale")(_in_order)


class MultiblockMask(Node, use="multiblock_mask"):
    """Hide blocks to be predicted from the rest of a square (I-JEPA, section 3).

    As in the released code: one uniform number u gives a block its scale and its aspect, low + u
    (high - low) each; height and width are rounded and at most one less than the grid's. A corner
    is drawn with the last possible one left out, so the last row and the last column of the grid
    are in no block. The context is a square without the places of the targets. It needs more than
    `min_keep` places: twenty draws are tried, then twenty that keep all but the last target out,
    and so on. `truncate` cuts all target blocks and all contexts of a batch to the fewest places
    that one of them has, the last ones in raster order going first.

    Places are a function of seed, node and sample position. With `size_per: batch` u is one of
    seed, node and the number of the forward pass, which is the lowest position in the batch by the
    samples of a pass over all processes. What is cut depends on the samples that one process has in
    a batch. In evaluation nothing is hidden.

    Shapes: image 1 B C H W -> context 1 B N, true where the context is not; targets count B N, one
    block a view, true in the block; N in raster order.
    """

    image = In("image", "1 B C H W")
    position = In("index", "1 B", default="batch.index")
    draws = True
    learns = False
    # what is drawn by the batch is no function of the sample, as the contract wants it
    sample = {"patch": 4, "min_keep": 4, "size_per": "image", "truncate": False}
    sample_axes = {"V": 1}

    class Config(Node.Config):
        """Settings.

        Attributes:
            patch: Side of a patch in pixels, as the encoder cuts images.
            target_blocks: Blocks that are predicted: how many, their share of the places, and their
                height by width.
            context_block: The square around them: its share of the places, and whether it keeps
                those of target blocks.
            min_keep: A context and a target block have more places than this.
            size_per: Whether blocks have one size in a batch, or one in each image.
            truncate: Whether all are cut to as many places; else masks are ragged.
        """

        patch: PositiveInt = 16
        target_blocks: TargetBlocks = TargetBlocks()
        context_block: ContextBlock = ContextBlock()
        min_keep: NonNegativeInt = 10
        size_per: Literal["batch", "image"] = "batch"
        truncate: bool = True

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """The context, and a view for each target block."""
        count = config.target_blocks.count
        outputs = {"context": Out("mask", "1 B N"), "targets": Out("mask", f"{count} B N")}
        for name, port in outputs.items():
            port.name = name
        return Ports(cls.declaration.inputs, outputs)

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """The context is of the view it comes from; every target block is a view of its own."""
        count = config.target_blocks.count
        return {
            "context": inputs["image"],
            "targets": tuple(f"{name}.targets.{block}" for block in range(count)),
        }

    @classmethod
    def mask_counts(cls, config: Any, places: int) -> Mapping[str, Visible]:
        """Another number in each batch; the bounds hold for a grid of any shape."""
        target, square = config.target_blocks, config.context_block
        fewest = min(config.min_keep + 1, places)
        truncated = "" if config.truncate else "truncate: true"
        hidden = Visible(
            fewest,
            _most(places, target.scale[1], target.aspect),
            truncated if config.size_per == "image" else "",
        )
        context = Visible(fewest, _most(places, square.scale[1], (1.0, 1.0)), truncated)
        return {"context": context, "targets": hidden.complement(places)}

    def build(self, H: int, W: int) -> None:
        """See that blocks have enough places."""
        config = self.config
        self.salt = text_key(self.context.name)
        self.grid = patch_grid(self.declaration.use, config.patch, H, W)
        draws = torch.arange(_TRIED_SIZES + 1, device="cpu").double() / _TRIED_SIZES
        for key, size in (
            ("target_blocks", self._target_size(draws)),
            ("context_block", self._context_size(draws)),
        ):
            smallest = int((size[0] * size[1]).min())
            if smallest <= config.min_keep:
                raise SettingError(
                    f"the smallest block has {smallest} of {math.prod(self.grid)} places",
                    path=(key,) if key in config.model_fields_set else ("min_keep",),
                    expected=f"more than min_keep = {config.min_keep}",
                    help="raise the lower end of its 'scale', make the views larger or the patches "
                    "smaller, or lower 'min_keep'",
                )

    def forward(self, image: Tensor, position: Tensor) -> Any:
        """Context and target blocks of a batch of images."""
        seed, place = self.context.seed, position[0]
        draws = Draws(seed, 0, place, self.salt)
        sizes = draws
        if self.config.size_per == "batch":
            number = place.min() // max(1, self.context.samples)
            sizes = Draws(seed, 0, number.expand_as(place), self.salt)
        size = self._target_size(sizes.uniform("size/target").double())
        targets = torch.stack(
            [
                self._placed(draws.within(f"target/{block}"), size)
                for block in range(self.config.target_blocks.count)
            ]
        )
        context = self._context(draws, sizes, targets)
        if self.config.truncate:
            targets, context = _cut(targets), _cut(context)
        return self.Outputs(~context[None].to(image.device), targets.to(image.device))

    def evaluate(self, image: Tensor, position: Tensor) -> Any:
        """Masks that hide nothing."""
        shapes = self.sizes(tuple(image.shape))
        return self.Outputs(
            *(torch.zeros(shape, dtype=torch.bool, device=image.device) for shape in shapes)
        )

    def sizes(self, *shapes: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...]:
        """Shapes of the masks."""
        assert shapes[0] is not None
        batch, places = shapes[0][1], math.prod(self.grid)
        return (1, batch, places), (self.config.target_blocks.count, batch, places)

    def _target_size(self, draw: Tensor) -> tuple[Tensor, Tensor]:
        target = self.config.target_blocks
        return block_size(draw, self.grid, target.scale, target.aspect)

    def _context_size(self, draw: Tensor) -> tuple[Tensor, Tensor]:
        return block_size(draw, self.grid, self.config.context_block.scale, (1.0, 1.0))

    def _placed(self, draws: Draws, size: tuple[Tensor, Tensor]) -> Tensor:
        """A block of this size in each image, B N."""
        inside = []
        for name, side, length in zip(("top", "left"), self.grid, size, strict=True):
            first = draws.integer(name, 0, side - length - 1)
            inside.append(between(torch.arange(side, device=length.device), first, length))
        rows, columns = inside
        return (rows[:, :, None] & columns[:, None]).flatten(1)

    def _context(self, draws: Draws, sizes: Draws, targets: Tensor) -> Tensor:
        """The places of the context of each image, B N."""
        size = self._context_size(sizes.uniform("size/context").double())
        apart = 0 if self.config.context_block.overlap else len(targets)
        context = torch.zeros_like(targets[0])
        for attempt in range(_ATTEMPTS * apart + 1):
            block = self._placed(draws.within(f"context/{attempt}"), size)
            kept_out = targets[: apart - attempt // _ATTEMPTS].any(0)
            lacking = (context.sum(-1) <= self.config.min_keep)[:, None]
            context = torch.where(lacking, block & ~kept_out, context)
            if bool((context.sum(-1) > self.config.min_keep).all()):
                break
        return context


def block_size(
    draw: Tensor, grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Height and width of blocks, less than those of the grid.

    Args:
        draw: Numbers in [0, 1], float64; each decides on scale and aspect together.
        grid: Rows and columns.
        scale: Least and largest share of the places.
        aspect: Least and largest height by width.

    Returns:
        int64, each of the shape of `draw`.
    """
    rows, columns = grid
    area = (rows * columns * (scale[0] + draw * (scale[1] - scale[0]))).long()
    shape = aspect[0] + draw * (aspect[1] - aspect[0])
    high, wide = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
    return high.clamp(max=rows - 1), wide.clamp(max=columns - 1)


def _most(places: int, scale: float, aspect: tuple[float, float]) -> int:
    """No block of such a scale has more places, whatever its sides are rounded to."""
    area = int(places * scale)
    sides = max(math.sqrt(area) * (math.sqrt(shape) + 1 / math.sqrt(shape)) for shape in aspect)
    return min(places, int(area + sides / 2 + 0.25))


def _cut(chosen: Tensor) -> Tensor:
    """The first places of each, as many as the one with the fewest has: ... N."""
    return chosen & (chosen.cumsum(-1) <= chosen.sum(-1).min())
