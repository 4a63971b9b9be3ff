"""What the loader, the engine and kNN ask of data, and the error for data that can't be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class DataError(ValueError):
    """Data that can't be used: one line that says what, where and what to do."""


class BadFile(NamedTuple):
    """An image that could not be read, and why; another one stands in for it."""

    uri: str
    reason: str


@runtime_checkable
class Source(Protocol):
    """Images by index, all of one shape, the same on every call and in every process.

    Random access is the whole interface: the order of a run, its resumption and its division among
    ranks are then arithmetic on indexes and need no state.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Class names, by label; empty where there are no labels."""
        ...

    @property
    def bad(self) -> Sequence[BadFile]:
        """What was found unreadable in this process so far, in that order, each once."""
        ...

    def __len__(self) -> int: ...

    def images(self, indexes: Sequence[int]) -> Tensor:
        """Pixels, uint8 B C H W, in the order of `indexes`.

        Raises:
            DataError: So many images are unreadable that something else must be wrong.
        """
        ...

    def label(self, index: int) -> int | None:
        """Place of its class in `classes`, or None where it has none."""
        ...

    def uri(self, index: int) -> str:
        """A name that leads a person back to the image."""
        ...
