"""Losses that compare views of one input with views of another, and how their pairs are chosen.

Views are told apart by the crop that they came from, never by their place: a list of references in
another order gives the same pairs, and an input of one view is compared with every view only where
the crops say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss
from sslgraph.nodes.ranks import sum_over_ranks, world_size
from sslgraph.ports import Identities, Pairs

Which = Literal["cross", "same", "all"]
Reduce = Literal["mean", "sum"]
Average = Literal["batch", "image"]

_SHOWN_CROPS = 4


class PairLoss(Loss):
    """Base class of losses over pairs of views: those of its first and of its second input."""

    class Config(Node.Config):
        """Settings.

        Attributes:
            pairs: Which views are compared: `cross` those of different crops, `same` those of one
                crop, `all` each with each.
            reduce: Mean or sum over the pairs; over the batch it is always the mean.
        """

        pairs: Which = "cross"
        reduce: Reduce = "mean"

    @classmethod
    def pairs(cls, config: Any, inputs: Mapping[str, Identities]) -> Pairs:
        """The compared views, ordered by the names of their crops."""
        first, second = _compared(cls)
        return pairs_of(config.pairs, inputs[first], inputs[second])

    @classmethod
    def review(cls, config: Any, inputs: Mapping[str, Identities]) -> str:
        """At least one pair is needed."""
        if cls.pairs(config, inputs):
            return ""
        first, second = _compared(cls)
        return no_pair(config.pairs, (first, inputs[first]), (second, inputs[second]))

    def build(self) -> None:
        """Choose the pairs, where the graph tells which crops the views came from."""
        views = self.context.views
        self._counts = tuple(len(views[name]) for name in _compared(type(self)) if name in views)
        self._pairs = self.pairs(self.config, views) if self._counts else ()

    def compared(self, first: Tensor, second: Tensor | None) -> Pairs:
        """The pairs of views to compare.

        Without a graph view i of each input came from crop i. In evaluation, where view nodes give
        one clean view, all that there is is compared.

        Args:
            first: The first input, V B ...
            second: The second input, V' B ...; None where the views of the first one are compared
                with each other.

        Raises:
            ValueError: In training there is no pair, or not the views that the graph gives.
        """
        counts = (first.shape[0],) if second is None else (first.shape[0], second.shape[0])
        return self._pairs_for(counts)

    def _pairs_for(self, counts: tuple[int, ...]) -> Pairs:
        if self._pairs and self._counts == counts:
            return self._pairs
        inputs = dict(zip(_compared(type(self)), map(_numbers, counts), strict=False))
        found: Pairs = () if self._pairs else self.pairs(self.config, inputs)
        if found:
            return found
        if not self.training:
            return tuple((i, j) for i in range(counts[0]) for j in range(counts[-1]))
        use = self.declaration.use
        if self._pairs:
            raise ValueError(f"{use} compares {self._counts} views, got {counts}")
        raise ValueError(f"{use}: {self.review(self.config, inputs)}")

    def reduced(self, terms: Sequence[Tensor]) -> Tensor:
        """Mean or sum over the pairs.

        Args:
            terms: One number a pair.
        """
        total = torch.stack(list(terms))
        return total.sum() if self.config.reduce == "sum" else total.mean()

    def scale(self, sizes: Mapping[str, int]) -> int:
        """How many times the value of one pair is in the loss, for inputs of these sizes."""
        if self.config.reduce == "mean":
            return 1
        return len(self._pairs_for(tuple(sizes[axis] for axis in ("V", "V'") if axis in sizes)))


def pairs_of(which: Which, first: Identities, second: Identities) -> Pairs:
    """The views to compare, as places in `first` and in `second`.

    They are ordered by the names of the crops, so that the order of views changes neither the
    pairs nor the order in which they are summed.
    """
    found = [
        (i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if which == "all" or (a == b) == (which == "same")
    ]
    return tuple(sorted(found, key=lambda p: (_natural(first[p[0]]), _natural(second[p[1]]), p)))


def same_shape(use: str, first: Tensor, second: Tensor) -> None:
    """See that two inputs agree in all axes but the view axis.

    Raises:
        ValueError: They don't; broadcasting would compare what does not belong together.
    """
    if first.shape[1:] != second.shape[1:]:
        shapes = f"{list(first.shape[1:])} and {list(second.shape[1:])}"
        raise ValueError(f"{use} compares inputs of one shape, got views of {shapes}")


def mask_views(
    use: str, mask: Tensor | None, like: Tensor, port: str = "mask"
) -> list[Tensor | None]:
    """For each view of `like` which of its places are hidden, or None where all count.

    Args:
        use: The loss, for errors.
        mask: V B N or 1 B N, true = hidden, or nothing. Weights of places are taken the same way.
        like: V B N ..., whose places the mask is about.
        port: The input, for errors.

    Raises:
        ValueError: The mask is not about the places of `like`.
    """
    if mask is None:
        return [None] * like.shape[0]
    if like.dim() != 4 or like.shape[1:3] != mask.shape[1:]:
        raise ValueError(
            f"{use}.{port} marks places [{' '.join(map(str, mask.shape[1:]))}] of tokens, but the "
            f"prediction has views of {list(like.shape[1:])}"
        )
    return list(mask.expand(like.shape[0], -1, -1).unbind())


def over_places(
    values: Tensor,
    mask: Tensor | None,
    average: Average,
    *,
    training: bool,
    weight: Tensor | None = None,
) -> Tensor:
    """The mean of one pair's values, or their weighted sum.

    Args:
        values: B ..., or B N with a mask or weights.
        mask: B N; only its true places count.
        average: `batch`: every hidden place counts alike, over all processes. `image`: every image
            counts alike, with the mean of its hidden places; one without any counts as zero.
        training: Whether other processes take part.
        weight: B N, as `gather_tokens` gives them: the value is the plain sum of weight x value,
            whatever `average` says; with a mask over its true places.
    """
    if weight is not None:
        if mask is not None:
            weight = weight * mask
        return (values * weight.to(values.dtype)).sum()
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    if average == "image":
        return ((values * weights).sum(-1) / weights.sum(-1).clamp(min=1)).mean()
    count = weights.sum()
    if training and world_size() > 1:  # gradients are averaged over ranks, whatever each hides
        count = sum_over_ranks(count) / world_size()
    # where no place is hidden at all the sum is zero, and so is the loss
    return (values * weights).sum() / torch.where(count > 0, count, 1)


def _compared(cls: type[PairLoss]) -> tuple[str, str]:
    first, second = list(cls.declaration.reads)[:2]
    return first, second


def _numbers(count: int) -> Identities:
    return tuple(str(view) for view in range(count))


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key in which `crops.10` comes after `crops.9`."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def no_pair(which: Which, *sides: tuple[str, Identities]) -> str:
    """What `review` says of a rule that leaves no pair of these inputs."""
    has = ", ".join(f"{name} has {_crops(views)}" for name, views in sides)
    remedy = {
        "cross": "give one side views of other crops, or compare each view with each "
        "by `pairs: all`",
        "same": "give both sides views of the same crops, or compare different ones "
        "by `pairs: cross`",
        "all": "give both sides views",
    }[which]
    return f"`pairs: {which}` leaves nothing to compare: {has}; {remedy}"


def _crops(views: Iterable[str]) -> str:
    names = sorted(set(views), key=_natural)
    more = len(names) - _SHOWN_CROPS
    return ", ".join(names[:_SHOWN_CROPS]) + (f" and {more} more" if more > 0 else "")
