"""How roles and lines look, for every format, and the words of the legend.

Colours are Okabe and Ito's, which people with any colour vision tell apart; a border or a dash says
the same again. Boxes and page are light, so a picture reads the same on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sslgraph.drawing.picture import Arrow, Box, Line, Mark, Picture, Role

TEXT = "#1f2328"
SOFT = "#57606a"
PAGE = "#ffffff"
REGION = "#f4f4f6"
REGION_BORDER = "#d0d7de"
REGION_TITLE = "no gradient"
STOPS = "stops the gradient"


@dataclass(frozen=True)
class Look:
    """A box: fill, border, what the legend says, width in points, `solid` or `dashed`."""

    fill: str
    border: str
    says: str
    width: float = 1.2
    style: str = "solid"


@dataclass(frozen=True)
class Stroke:
    """An arrow: colour, `solid`, `dashed` or `dotted`, width in points, words of the legend."""

    color: str
    style: str
    width: float
    says: str


LOOKS: Mapping[Role, Look] = {
    "data": Look("#f0f0f0", "#8c8c8c", "data"),
    "random": Look("#fdf1dc", "#e69f00", "random draws"),
    "network": Look("#e3f0fa", "#0072b2", "network"),
    "plain": Look("#ffffff", "#6e7781", "no parameters"),
    "copy": Look("#f8ebf3", "#b0608f", "slow copy"),
    "memory": Look("#e0f3ec", "#009e73", "memory"),
    "loss": Look("#fce4d6", "#d55e00", "loss", width=2.2),
    "output": Look("#ffffff", "#8c8c8c", "output"),
}

STROKES: Mapping[Line, Stroke] = {
    "data": Stroke("#8c8c8c", "solid", 1.0, "data"),
    "gradient": Stroke("#0072b2", "solid", 1.6, "gradients flow back"),
    "stopped": Stroke("#6e7781", "dashed", 1.3, "no gradient"),
    "write": Stroke("#009e73", "dotted", 2.0, "written after each batch"),
    "weights": Stroke("#b0608f", "dotted", 1.3, "same or copied weights"),
    "output": Stroke("#8c8c8c", "solid", 1.0, "output"),
}

CHANGED: Mapping[Mark, Look] = {
    "added": Look("#dcf3ea", "#009e73", "+ added", width=2.4),
    "removed": Look("#fdece4", "#d55e00", "- removed", width=1.4, style="dashed"),
    "changed": Look("#fdf1dc", "#e69f00", "~ changed", width=2.4),
    "same": Look("#ffffff", "#b4bac1", "unchanged", width=1.0),
}

SIGNS: Mapping[Mark, str] = {"added": "+", "removed": "-", "changed": "~", "same": ""}

_IN_LEGEND: tuple[Role, ...] = ("random", "network", "plain", "copy", "memory", "loss")


@dataclass(frozen=True)
class Legend:
    """What occurs in a picture and is not plain by itself."""

    roles: tuple[Role, ...]
    lines: tuple[Line, ...]
    stops: bool
    marks: tuple[Mark, ...] = ()


def look(box: Box) -> Look:
    """How a box looks: by its role, in a picture of two graphs by what became of it."""
    return CHANGED[box.mark] if box.mark else LOOKS[box.role]


def stroke(arrow: Arrow) -> Stroke:
    """How an arrow looks, as `look` does for boxes."""
    plain = STROKES[arrow.line]
    if arrow.mark is None:
        return plain
    drawn = CHANGED[arrow.mark]
    if arrow.line == "weights" and drawn.style == "solid":
        return Stroke(drawn.border, plain.style, max(plain.width, drawn.width - 0.8), drawn.says)
    return Stroke(drawn.border, drawn.style, drawn.width, drawn.says)


def sign(arrow: Arrow) -> str:
    """The sign of what became of an arrow, for those who see no colours."""
    return SIGNS[arrow.mark] if arrow.mark else ""


def shows_stop(box: Box) -> bool:
    """Whether the border says that no gradient passes; a copy looks like one anyhow."""
    return box.stops and box.role != "copy" and box.mark is None


def legend(picture: Picture) -> Legend:
    """The legend of a picture: only what occurs in it."""
    marks = {box.mark for box in picture.boxes} | {arrow.mark for arrow in picture.arrows}
    marks.discard(None)
    if marks:
        return Legend((), (), stops=False, marks=tuple(mark for mark in CHANGED if mark in marks))
    roles = {box.role for box in picture.boxes}
    lines = {arrow.line for arrow in picture.arrows}
    return Legend(
        roles=tuple(role for role in _IN_LEGEND if role in roles),
        lines=tuple(_lines(lines)),
        stops=any(shows_stop(box) for box in picture.boxes),
    )


def _lines(used: set[Line]) -> Iterator[Line]:
    for line in STROKES:
        if line in used and line not in ("data", "output"):
            yield line
