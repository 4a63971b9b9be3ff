"""What a proof says: one result a property, and the two ways in which a property ends early."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["passed", "failed", "does_not_apply"]


@dataclass(frozen=True)
class Result:
    """One property of one graph.

    Args:
        name: The property.
        status: Whether it holds; one that does not apply is neither.
        found: The figure found, what is wrong, or why it does not apply.
        place: Where the node stands at which it fails, `file:line:column`; else empty.
        seconds: How long it took.
    """

    name: str
    status: Status
    found: str
    place: str = ""
    seconds: float = 0.0

    def as_data(self) -> dict[str, Any]:
        """For other programs."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        return f"{self.name}: {self.status.replace('_', ' ')}: {self.found}{where}"


class BrokenError(Exception):
    """A property does not hold.

    Args:
        text: What was found and what was expected, one line.
        node: The node at which it fails, where one can be named.
    """

    def __init__(self, text: str, node: str = "") -> None:
        super().__init__(text)
        self.node = node


class InapplicableError(Exception):
    """A property means nothing for a graph; the text says what in its declarations says so."""


class ProofError(ValueError):
    """A graph can't be proved here; the text says why and what to do."""


def listed(names: Iterable[str], most: int = 4) -> str:
    """`a, b, c, d and 3 more`."""
    every = list(names)
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")
