"""Lists of operations at work: a training view, the evaluation view, and what a list asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops.base import TABLE, Op, Params, on_rows
from sslgraph.nodes.ops.geometry import fit
from sslgraph.nodes.ops.groups import GroupedOp
from sslgraph.nodes.ops.setting import OpSetting

# Share of the shorter side in an evaluation view: the 224 of 256 pixels usual on ImageNet.
_CENTRE = 7 / 8
# Bytes of float pixels worked on at a time on the CPU. Measured at 32, 64 and 224 pixels: below
# 8 MiB the groups of images that share an operation are too small, above 16 MiB nothing is won.
_CHUNK = 2**24


@dataclass(frozen=True)
class Step:
    """An operation with the parameters of a batch.

    Args:
        op: The operation.
        hits: B bools, the samples it is applied to; None for all.
        params: Its parameters, B rows each.
    """

    op: Op
    hits: Tensor | None
    params: Params

    def rows(self, part: slice, device: torch.device) -> Step:
        """The same for some of the samples, with the parameters where the images are."""
        hits = None if self.hits is None else self.hits[part]
        params = {
            name: value[part] if name in self.op.stays else value[part].to(device)
            for name, value in self.params.items()
        }
        return Step(self.op, hits, params)

    def apply(self, image: Tensor, size: int) -> Tensor:
        """Work on the samples that are hit."""
        if self.hits is None:
            return self.op.apply(image, self.params, size)
        return on_rows(
            image, self.hits, self.params, lambda x, chosen: self.op.apply(x, chosen, size)
        )


def sample_ops(
    ops: Sequence[OpSetting], image: tuple[int, int, int], size: int, draws: Draws, view: int
) -> list[Step]:
    """Every parameter of a view; draws, and touches no pixel.

    Names of draws begin with the operation and its place among those of its kind (`blur/0/sigma`),
    so taking an operation out of a list changes none of the draws of the others. Whether a sample
    is hit is the draw `hit`, made where the chance is below one.

    Args:
        ops: The list.
        image: Channels, height and width of the images.
        size: Side of the view.
        draws: Draws for the batch.
        view: Which view, for `each`.

    Raises:
        ValueError: The images are too small for an operation.
    """
    channels, height, width = image
    counts: Counter[str] = Counter()
    steps = []
    for setting in ops:
        op = setting.at(view)
        own = draws.within(f"{op.name}/{counts[op.name]}")
        counts[op.name] += 1
        after = op.output_size(height, width, size)
        if op.probability > 0:
            hits = own.bernoulli("hit", op.probability) if op.probability < 1 else None
            steps.append(Step(op, hits, op.sample(own, (channels, height, width), size)))
        height, width = after
    return steps


def apply_ops(
    ops: Sequence[OpSetting], image: Tensor, size: int, draws: Draws, view: int
) -> Tensor:
    """A training view of every image, each with parameters of its own.

    Args:
        ops: The list, applied in order. Where nothing in it makes squares of `size`, the centred
            square of the result is resized to it.
        image: B C H W, uint8 or float in [0, 1].
        size: Side of the view.
        draws: Draws of this node and this view for the B samples. Made on the CPU, they say which
            samples to work on without waiting for an accelerator.
        view: Which view, for `{each: [...]}`.

    Returns:
        B C size size, float32.

    Raises:
        TypeError: The image is neither uint8 nor floating.
        ValueError: The images are too small for an operation.
    """
    steps = sample_ops(ops, (image.shape[1], image.shape[2], image.shape[3]), size, draws, view)
    with torch.autocast(image.device.type, enabled=False):  # a view is as exact as its parameters
        parts = [
            _view_of(
                _own_floats(image[part]), [step.rows(part, image.device) for step in steps], size
            )
            for part in _chunks(image, size)
        ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _view_of(image: Tensor, steps: Sequence[Step], size: int) -> Tensor:
    for step in steps:
        image = step.apply(image, size)
    return fit(image, size, 1.0)


def _own_floats(image: Tensor) -> Tensor:
    """`to_float` in memory that operations may write into."""
    return image.clone() if image.dtype == torch.float32 else to_float(image)


def _chunks(image: Tensor, size: int) -> Iterator[slice]:
    """Stretches of the batch: all of it on an accelerator, of a bounded size on the CPU."""
    batch, channels, height, width = image.shape
    per_image = 4 * channels * max(height * width, size * size)
    at_once = max(1, _CHUNK // per_image) if image.device.type == "cpu" else batch
    return (slice(start, start + at_once) for start in range(0, max(batch, 1), max(at_once, 1)))


def evaluate_ops(ops: Sequence[OpSetting], image: Tensor, size: int) -> Tensor:
    """The one deterministic view: resized, the centre, normalised as in training; nothing else.

    `resize`, `center_crop` and `random_crop` of the list keep their sizes. Without them the square
    is the centre that spans 7/8 of the shorter side, or more where that would leave fewer than
    `size` pixels. `each` takes the value of view 0.

    Args:
        ops: The list.
        image: B C H W, uint8 or float in [0, 1].
        size: Side of the view.

    Returns:
        B C size size, float32.

    Raises:
        TypeError: The image is neither uint8 nor floating.
    """
    chosen = [setting.at(0) for setting in ops]
    spatial = [op for op in chosen if op.spatial]
    view = to_float(image)
    with torch.autocast(image.device.type, enabled=False):
        for op in spatial:
            view = op.evaluate(view, size)
        view = fit(view, size, 1.0 if spatial else _CENTRE)
        for op in chosen:
            if not op.spatial:
                view = op.evaluate(view, size)
    return view


def to_float(image: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1]: uint8 is divided by 255, floats keep their values.

    Raises:
        TypeError: The image has another type.
    """
    if image.dtype == torch.uint8:
        return image.to(torch.float32).div_(255)
    if image.is_floating_point():
        return image.to(torch.float32)
    raise TypeError(f"an image is uint8 (0 to 255) or floating (0 to 1), got {image.dtype}")


def op_channels(ops: Sequence[OpSetting]) -> list[int | None]:
    """For each operation the number of channels that it needs, None for any."""
    return [
        next((n for op in setting.variants if (n := op.channels) is not None), None)
        for setting in ops
    ]


def wrong_channels(ops: Sequence[OpSetting], channels: int) -> list[tuple[int, str, int]]:
    """The operations that images with this many channels do not suit: place, name, needed."""
    return [
        (place, ops[place].name, needed)
        for place, needed in enumerate(op_channels(ops))
        if needed is not None and needed != channels
    ]


def wrong_order(ops: Sequence[OpSetting | GroupedOp]) -> list[tuple[int, str]]:
    """The operations on pixels in [0, 1] that stand after `normalize`: place and name."""
    names = [setting.name for setting in ops]
    first = names.index("normalize") if "normalize" in names else len(names)
    return [
        (place, name)
        for place, name in enumerate(names)
        if place > first and TABLE[name].unit_range
    ]


def wrong_views(ops: Sequence[OpSetting], views: int) -> list[tuple[int, str, int]]:
    """The operations whose `each` does not give one value a view: place, name, values given."""
    return [
        (place, setting.name, len(setting.variants))
        for place, setting in enumerate(ops)
        if len(setting.variants) not in (1, views)
    ]
