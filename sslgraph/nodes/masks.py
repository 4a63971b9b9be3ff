"""Masks: which places of a grid of patches are hidden in each image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from sslgraph.hashing import text_key
from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.places import spread
from sslgraph.ports import In, Out, Visible
from sslgraph.schedules import Finite, fault

Share = Annotated[Finite, Field(gt=0, lt=1)]

_ATTEMPTS = 10  # for one block, before a mask is left as it is
_SLIMMEST = 0.3  # height by width of a block, and its inverse


class Mask(Node):
    """Base of masks: a grid of patches over each view, true where hidden."""

    image = In("image", "V B C H W")
    position = In("index", "1 B", default="batch.index")
    mask = Out("mask", "V B N", main=True)
    visible = Out("mask", "V B N")
    draws = True
    learns = False

    class Config(Node.Config):
        """Settings.

        Attributes:
            patch: Side of a patch in pixels, as the encoder cuts images.
        """

        patch: PositiveInt = 16

    def build(self, H: int, W: int) -> None:
        """See that the images are whole patches."""
        self.salt = text_key(self.context.name)
        self.grid = patch_grid(self.declaration.use, self.config.patch, H, W)

    def forward(self, image: Tensor, position: Tensor) -> Any:
        """Masks of a batch of images, and their complements."""
        seed, place = self.context.seed, position[0]
        views = [Draws(seed, view, place, self.salt) for view in range(image.shape[0])]
        mask = torch.stack([self._drawn(draws) for draws in views]).to(image.device)
        return self.Outputs(mask, ~mask)

    def evaluate(self, image: Tensor, position: Tensor) -> Any:
        """Masks that hide nothing."""
        views, batch = image.shape[:2]
        nothing = torch.zeros(
            views, batch, math.prod(self.grid), dtype=torch.bool, device=image.device
        )
        return self.Outputs(nothing, nothing.clone())

    def sizes(self, *shapes: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...]:
        """Shapes of the masks."""
        assert shapes[0] is not None
        shape = (*shapes[0][:2], math.prod(self.grid))
        return (shape, shape)

    def _drawn(self, draws: Draws) -> Tensor:
        """B N bool for one view."""
        raise NotImplementedError


class RandomMask(Mask, use="random_mask"):
    """Hide places at random, as many in every image (MAE, section 3).

    Of N places int(N (1 - ratio)) stay visible, in floating point as in the published code. A draw
    is a function of seed, node, view and sample position; with `same: batch` of the lowest position
    in each forward pass, so that all its images hide the same places (MSN's code, which draws one
    mask in each process). In evaluation nothing is hidden.

    Shapes: image V B C H W -> mask V B N, true where hidden, N in raster order; visible is its
    complement, a mask that hides what `mask` leaves.
    """

    sample = {"patch": 8, "ratio": 0.75}

    class Config(Mask.Config):
        """Settings.

        Attributes:
            ratio: Share of the places that is hidden.
            cell: Side in pixels of squares of patches that are hidden as one (SimMIM, section 3.2);
                single patches if absent.
            same: Whether each image has a mask of its own, or all of a batch have one.
        """

        ratio: Share = 0.75
        cell: PositiveInt | None = None
        same: Literal["image", "batch"] = "image"

        @model_validator(mode="after")
        def _whole_patches(self) -> Self:
            if self.cell is not None and self.cell % self.patch:
                raise fault(
                    "a cell is made of whole patches",
                    expected=f"a multiple of 'patch', which is {self.patch}",
                )
            return self

        @property
        def patches(self) -> int:
            """How many patches are hidden as one."""
            return ((self.cell or self.patch) // self.patch) ** 2

    @classmethod
    def mask_counts(cls, config: Any, places: int) -> Mapping[str, Visible]:
        """The same number in every image."""
        count = int(places // config.patches * (1 - config.ratio)) * config.patches
        mask = Visible(count, count)
        return {"mask": mask, "visible": mask.complement(places)}

    def build(self, H: int, W: int) -> None:
        """See that a place stays visible."""
        super().build(H, W)
        if self.config.cell is not None:
            patch_grid(self.declaration.use, self.config.cell, H, W, setting="cell")
        places = math.prod(self.grid)
        self.count = self.mask_counts(self.config, places)["mask"].fewest
        if self.count == 0:
            raise _all_hidden(f"{self.config.ratio} of them", ("ratio",), places)

    def forward(self, image: Tensor, position: Tensor) -> Any:
        """Masks of a batch of images, and their complements."""
        if self.config.same == "image":
            return super().forward(image, position)
        # the lowest one, so that the order of the images changes nothing
        one = super().forward(image, position.amin(1, keepdim=True))
        return self.Outputs(*(mask.repeat(1, image.shape[1], 1) for mask in one))

    def _drawn(self, draws: Draws) -> Tensor:
        each = self.config.patches
        order = draws.permutation("order", math.prod(self.grid) // each)
        mask = torch.ones(order.shape, dtype=torch.bool, device=order.device)
        return spread(mask.scatter(1, order[:, : self.count // each], False), *self.grid)


class BlockMask(Mask, use="block_mask"):
    """Hide rectangles of neighbouring places (BEiT, section 2.3 and algorithm 1).

    Blocks are drawn until enough places are hidden: their area between `min_block` and what is
    left to hide, height by width between 0.3 and 1/0.3. A block has to be smaller than the grid and
    must not hide more than is left; after ten that don't fit a mask stays as it is, or with `count:
    exact` is filled up with single places (BEiT v2). A `ratio` of two numbers is drawn anew for
    each image, and a `share` below 1 leaves some images whole (iBOT, DINOv2, where images share out
    the ratios within a batch). A draw is a function of seed, node, view and sample position. In
    evaluation nothing is hidden.

    Shapes: image V B C H W -> mask V B N, true where hidden, N in raster order; visible is its
    complement, a mask that hides what `mask` leaves.
    """

    sample = {"patch": 4, "patches": 24, "min_block": 4}

    class Config(Mask.Config):
        """Settings.

        Attributes:
            ratio: Share of the places that is hidden, rounded down to whole places; [low, high]
                draws one for each image.
            patches: Number of places that is hidden, in the place of `ratio`.
            share: Share of the images that have a mask; the others stay whole.
            count: Whether masks may end below that number or have it exactly.
            min_block: Places of the smallest block.
        """

        ratio: Share | tuple[Share, Share] | None = None
        patches: PositiveInt | None = None
        share: Annotated[Finite, Field(gt=0, le=1)] = 1.0
        count: Literal["at_most", "exact"] = "at_most"
        min_block: PositiveInt = 4

        @model_validator(mode="after")
        def _one_number(self) -> Self:
            if (self.ratio is None) == (self.patches is None):
                raise fault(
                    "a block mask hides one number of places",
                    expected="'ratio' or 'patches'",
                    help="delete the other one with 'null' where it is inherited",
                )
            if isinstance(self.ratio, tuple) and self.ratio[0] > self.ratio[1]:
                raise fault("the lower ratio stands first", expected="[low, high]")
            return self

    @classmethod
    def mask_counts(cls, config: Any, places: int) -> Mapping[str, Visible]:
        """The same number in every image if it is fixed and reached exactly."""
        fewest = places - _most_hidden(config, places)
        most = places
        if config.share == 1 and config.count == "exact":
            low = config.ratio[0] if isinstance(config.ratio, tuple) else None
            most = fewest if low is None else places - int(low * places)
        mask = Visible(fewest, most, cls._remedy(config))
        return {"mask": mask, "visible": mask.complement(places)}

    @staticmethod
    def _remedy(config: Any) -> str:
        """The setting that would make its masks even, or ''."""
        if config.share < 1:
            return "share: 1"
        if isinstance(config.ratio, tuple):
            return "ratio: " + " or ".join(str(ratio) for ratio in config.ratio)
        return "" if config.count == "exact" else "count: exact"

    def build(self, H: int, W: int) -> None:
        """See that a place stays visible."""
        super().build(H, W)
        places = math.prod(self.grid)
        if _most_hidden(self.config, places) >= places:
            raise _all_hidden(f"{self.config.patches}", ("patches",), places)

    def _drawn(self, draws: Draws) -> Tensor:
        target = self._targets(draws)
        mask = _blocks(draws, self.grid, target, self.config.min_block).flatten(1)
        return _filled(draws, mask, target) if self.config.count == "exact" else mask

    def _targets(self, draws: Draws) -> Tensor:
        """How many places each image hides, B."""
        config, places = self.config, math.prod(self.grid)
        if isinstance(config.ratio, tuple):
            low, high = config.ratio
            ratio = draws.uniform("ratio").double() * (high - low) + low
            target: Tensor = (ratio * places).long()
        else:
            target = torch.full_like(draws.position, _most_hidden(config, places))
        return target.where(draws.bernoulli("share", config.share), 0)


def _most_hidden(config: Any, places: int) -> int:
    """The number of places that a block mask hides, the largest where it differs by image."""
    if config.patches is not None:
        return int(config.patches)
    ratio = config.ratio[1] if isinstance(config.ratio, tuple) else config.ratio
    return int(ratio * places)


def _blocks(draws: Draws, grid: tuple[int, int], target: Tensor, smallest: int) -> Tensor:
    """Rectangles that hide up to `target` places of each image, B rows columns."""
    height, width = grid
    rows = torch.arange(height, device=target.device)
    columns = torch.arange(width, device=target.device)
    mask = torch.zeros(len(target), height, width, dtype=torch.bool, device=target.device)
    left, failed, attempt = target.clone(), torch.zeros_like(target), 0
    while bool((trying := (left > 0) & (failed < _ATTEMPTS)).any()):
        draw = draws.within(str(attempt))
        area = draw.uniform("area").double() * (left - smallest) + smallest
        slimness = draw.uniform("ratio").double() * -2 + 1
        shape = (slimness * math.log(_SLIMMEST)).exp()
        high, wide = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
        top = draw.integer("top", 0, (height - high).clamp(min=0))
        first = draw.integer("left", 0, (width - wide).clamp(min=0))
        inside = between(rows, top, high)[:, :, None] & between(columns, first, wide)[:, None]
        new = (inside & ~mask).sum((1, 2))
        taken = trying & (high < height) & (wide < width) & (new > 0) & (new <= left)
        mask |= inside & taken[:, None, None]
        left -= new * taken
        failed = torch.where(taken, 0, failed + 1)
        attempt += 1
    return mask


def between(line: Tensor, first: Tensor, count: Tensor) -> Tensor:
    """For each image which of the numbers of a line are among `count` from `first`: B line."""
    return (line >= first[:, None]) & (line < (first + count)[:, None])


def _filled(draws: Draws, mask: Tensor, target: Tensor) -> Tensor:
    """The masks with single places hidden at random until each hides its number."""
    order = draws.permutation("fill", mask.shape[1])
    free = ~mask.gather(1, order)
    missing = (target - mask.sum(1))[:, None]
    chosen = free & (free.cumsum(1) <= missing)
    return mask.scatter(1, order, chosen | ~free)


def patch_grid(
    use: str, patch: int, height: int, width: int, *, setting: str = "patch"
) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Args:
        use: The node type that asks.
        patch: Side of a patch in pixels.
        height: Pixels of the image.
        width: Pixels of the image.
        setting: Which setting of the node says how large a patch is.

    Raises:
        SettingError: The image is not made of whole patches.
    """
    if height % patch or width % patch:
        raise SettingError(
            f"{use} cuts images into patches of {patch} x {patch}",
            path=(setting,),
            expected=f"sides that are multiples of {patch}",
            got=f"images of {height} x {width}",
            help=f"make views of such a size, or set another {setting}",
        )
    return height // patch, width // patch


def _all_hidden(what: str, path: tuple[str, ...], places: int) -> SettingError:
    return SettingError(
        f"to hide {what} leaves none of {places} places visible",
        path=path,
        expected="at least one visible place in each image",
        help="hide fewer, or make the views larger or the patches smaller",
    )
