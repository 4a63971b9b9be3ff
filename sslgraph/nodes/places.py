"""Places of masks as positions, as many for every image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslgraph.nodes.base import Node


def visible_places(node: Node, name: str, mask: Tensor) -> Tensor:
    """The places that an even mask leaves visible, in raster order.

    In a graph their number is known from the node that made the mask wherever it is the same in
    every batch: no shape depends on data, and a compiled region stays whole. Else the masks of the
    batch are counted; the meta device, where nothing can be counted, has the fewest.

    Args:
        node: The node that asks.
        name: Its input, one of `even`.
        mask: ... N bool, true where hidden.

    Returns:
        ... n, int64.

    Raises:
        ValueError: The mask is counted, and is ragged.
    """
    return first_visible(mask, _visible(node, name, mask))


def hidden_places(node: Node, name: str, mask: Tensor) -> Tensor:
    """The places that a mask hides, in raster order.

    Args:
        node: The node that asks.
        name: Its input.
        mask: ... N bool, true where hidden.

    Returns:
        ... M, int64, with M as `hidden_count` says; visible places fill up where fewer are hidden.
    """
    return first_visible(~mask, hidden_count(node, name, mask))


def hidden_count(node: Node, name: str, mask: Tensor) -> int:
    """The number of places in which what a mask hides has room; at least one.

    Of an even mask this is how many it hides, of a ragged one the most that any image may hide. In
    evaluation, where masks hide nothing, it is as large as it may get in training.

    Args:
        node: The node that asks.
        name: Its input.
        mask: ... N bool.
    """
    kept, places = node.context.kept.get(name), mask.shape[-1]
    if kept is None:
        return max(1, int(mask.sum(-1).max()))
    if kept.even and kept.known is None and node.training:
        return max(1, places - _visible(node, name, mask))
    return max(1, places - kept.fewest)


def first_visible(mask: Tensor, count: int) -> Tensor:
    """The first `count` visible places of each image, then hidden ones: ... N bool -> ... count."""
    return mask.to(torch.uint8).argsort(dim=-1, stable=True)[..., :count]


def _visible(node: Node, name: str, mask: Tensor) -> int:
    """How many places each mask of a batch leaves visible."""
    kept = node.context.kept.get(name)
    if kept is not None and kept.known is not None:
        return kept.known
    if kept is not None and mask.is_meta:
        return kept.fewest
    counts = mask.logical_not().sum(-1)
    fewest, most = int(counts.min()), int(counts.max())
    if fewest != most:
        raise ValueError(
            f"{node.declaration.use}.{name} takes masks that hide as many places in every image, "
            f"got some that leave {fewest} and some that leave {most} visible"
        )
    return fewest


def cell(rows: int, columns: int, places: int) -> int:
    """How many patches of a model's grid a mask's place is wide and high; 0 where none fits.

    Args:
        rows: Rows of the model's grid.
        columns: Its columns.
        places: Places of the mask, B of them in raster order.
    """
    side = math.isqrt(rows * columns // places)
    fits = side and side * side * places == rows * columns and not (rows % side or columns % side)
    return side if fits else 0


def spread(mask: Tensor, rows: int, columns: int) -> Tensor:
    """A mask over a grid of patches, from one whose places may cover several of them.

    Args:
        mask: B G.
        rows: Rows of the model's grid.
        columns: Its columns.

    Returns:
        B rows*columns.
    """
    side = cell(rows, columns, mask.shape[1])
    if side == 1:
        return mask
    grid = mask.reshape(-1, rows // side, 1, columns // side, 1)
    return grid.expand(-1, -1, side, -1, side).reshape(-1, rows * columns)
