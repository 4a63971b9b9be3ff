"""A graph's text: its data, and where each part of it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sslgraph.canonical import canonical
from sslgraph.errors import Span

Path = tuple[str | int, ...]
"""The way to a value in nested data: `("nodes", "loss", "temperature")`."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written.

    Args:
        key: Place of its key; None in a list and at the top.
        value: Place of the value itself.
        note: How the value came there, if that isn't plain from its place.
    """

    key: Span | None
    value: Span
    note: str = ""


@dataclass
class Document:
    """Resolved data, with an origin for each part.

    Args:
        data: What the passes read: merged, variables replaced.
        origins: Where each key and value was written, by path.
        name: What the user called it.
        written: The merged data before variables were replaced.
    """

    data: dict[str, Any]
    origins: dict[Path, Origin]
    name: str
    written: dict[str, Any] = field(default_factory=dict)

    def span(self, *path: str | int, key: bool = False) -> Span:
        """Where the value at `path` stands; for what was not written, its nearest ancestor.

        Args:
            *path: Keys and list positions from the top.
            key: Ask for the place of the key; a list item has none, so its value's is given.
        """
        origin = self.origins.get(path)
        if origin is None:
            return self._owner(path)
        return origin.key if key and origin.key else origin.value

    def _owner(self, path: Path) -> Span:
        """The key of the nearest ancestor: the place to which something must be added."""
        for length in range(len(path) - 1, -1, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                return origin.key or origin.value
        return Span(self.name)

    def note(self, *path: str | int) -> str:
        """How the value at `path` came there, such as the variable it stands for; mostly empty."""
        origin = self.origins.get(path)
        return origin.note if origin else ""

    def spans_inside(self, *path: str | int) -> Iterator[tuple[Path, Origin]]:
        """Every part at or below `path`, in the order of the text."""
        for other, origin in self.origins.items():
            if other[: len(path)] == path:
                yield other, origin

    @property
    def text(self) -> str:
        """The merged graph as YAML: variables by name, one key order, lines of 100 columns."""
        return canonical(self.written or self.data)
