"""Nodes that make views of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveInt, ValidationInfo, field_validator
from torch import Tensor

from sslgraph.hashing import text_key
from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops import (
    OpSetting,
    apply_ops,
    evaluate_ops,
    wrong_channels,
    wrong_order,
    wrong_views,
)
from sslgraph.nodes.ops.groups import GroupedOp
from sslgraph.ports import In, Out
from sslgraph.schedules import fault


class Augment(Node, use="augment"):
    """Random views of each image, every sample with draws of its own (SimCLR, appendix A).

    A draw is a function of seed, node, view and sample position, so a sample gets the same views in
    any batch, on any rank and with any number of workers. In evaluation there is one view: resized,
    the centre, normalised as in training.

    Shapes: image 1 B C H W, uint8 or float in [0, 1] -> y views B C size size, float.
    """

    image = In("image", "1 B C H W")
    position = In("index", "1 B", default="batch.index")
    y = Out("image", "views B C size size")
    draws = True
    sample = {"views": 2, "size": 24, "ops": [{"crop": [0.5, 1.0]}, {"flip": 0.5}]}
    sample_axes = {"V": 1, "H": 28, "W": 28}

    class Config(Node.Config):
        """Settings.

        Attributes:
            views: Number of views.
            size: Side of a view in pixels.
            ops: Operations in the order in which they are applied, such as `{flip: 0.5}`; `{each:
                [...]}` in the place of a value gives one value a view.
        """

        views: PositiveInt = 2
        size: PositiveInt = 224
        ops: list[OpSetting] = []

        @field_validator("ops")
        @classmethod
        def _sound(cls, ops: list[OpSetting], info: ValidationInfo) -> list[OpSetting]:
            refuse_order(ops)
            refuse_views(ops, info.data.get("views"))
            return ops

    def build(self, C: int, H: int, W: int) -> None:
        """See that the operations suit images of C channels."""
        self.salt = text_key(self.context.name)
        see_channels([(("ops",), self.config.ops)], C)

    def forward(self, image: Tensor, position: Tensor) -> Tensor:
        """Views of a batch of images."""
        config, seed = self.config, self.context.seed
        return random_views(
            config.ops, image[0], position[0], config.size, config.views, seed, self.salt
        )

    def evaluate(self, image: Tensor, position: Tensor) -> Tensor:
        """The one deterministic view."""
        return evaluate_ops(self.config.ops, image[0], self.config.size).unsqueeze(0)

    def sizes(self, *shapes: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...]:
        """Shape of the views."""
        assert shapes[0] is not None
        _, batch, channels, _, _ = shapes[0]
        size = self.config.size
        return ((self.config.views, batch, channels, size, size),)

    @classmethod
    def largest_crop(cls, config: Any) -> int | None:
        """The side of a view."""
        size: int = config.size
        return size


def random_views(
    ops: Sequence[OpSetting],
    image: Tensor,
    position: Tensor,
    size: int,
    views: int,
    seed: int,
    salt: int,
) -> Tensor:
    """Random views of a batch.

    Args:
        ops: Operations in order.
        image: B C H W, uint8 or float in [0, 1].
        position: B positions of the samples.
        size: Side of a view in pixels.
        views: How many.
        seed: The run's seed.
        salt: Key of the node or group that makes them.

    Returns:
        views B C size size, float32.
    """
    made = [
        apply_ops(ops, image, size, Draws(seed, view, position, salt), view)
        for view in range(views)
    ]
    return torch.stack(made)


def refuse_order(ops: Sequence[OpSetting | GroupedOp]) -> None:
    """Refuse operations on pixels in [0, 1] that stand after `normalize`."""
    for place, name in wrong_order(ops):
        raise fault(
            f"operation {place} ({name}) stands after normalize",
            expected="pixels between 0 and 1",
            help="put normalize last",
        )


def refuse_views(ops: Sequence[OpSetting], views: int | None) -> None:
    """Refuse operations whose `each` does not give one value a view; None: not known how many."""
    for place, name, given in wrong_views(ops, views) if views else ():
        raise fault(
            f"'each' of operation {place} ({name}) has {given} values",
            expected=f"{views} values, one a view",
        )


def see_channels(
    lists: Sequence[tuple[tuple[str | int, ...], Sequence[OpSetting]]], channels: int
) -> None:
    """See that operations suit images of so many channels.

    Args:
        lists: Lists of operations with their places in the node's settings, which may repeat.
        channels: The number of channels.

    Raises:
        SettingError: Some don't; all of them are in it.
    """
    faults: tuple[SettingError, ...] = ()
    wrong = [
        (*where, at, name, needed)
        for where, ops in lists
        for at, name, needed in wrong_channels(ops, channels)
    ]
    for *place, name, needed in reversed(dict.fromkeys(wrong)):
        fault = SettingError(
            f"operation '{name}' is not for images of {channels} channels",
            path=tuple(place),
            expected=f"images of {needed} channels",
            got=f"{channels} channels",
            help="drop it, or let the data give such images (data.batch.channels)",
            more=faults,
        )
        faults = (fault, *faults)
    if faults:
        raise faults[0]
