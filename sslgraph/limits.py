"""Limits of a graph's text, so that hostile or broken input ends in a line, not in a crash.

They are generous: the largest method here has about 100 lines. Aliases and merge keys are counted
by what they stand for, before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sslgraph.errors import Problem, Span

MOST_BYTES = 2**20
MOST_EVENTS = 20_000
MOST_DEPTH = 40
MOST_NODES = 100_000
MOST_CHARACTERS = 10_000
MOST_PROBLEMS = 100
MOST_PARENTS = 10

LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_CONTROL = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


@dataclass(frozen=True)
class Place:
    """Where a text stands: its name and, for a `--set`, the argument that it ends.

    Args:
        name: Name of the source in a problem.
        prefix: What stands before the text on its first line.
        numbered: Whether lines have numbers.
    """

    name: str
    prefix: str = ""
    numbered: bool = True


class Lines:
    """The lines of a text, for spans."""

    def __init__(self, text: str, place: Place) -> None:
        self._lines = LINE_END.split(shown(text))
        self._place = place

    def span(self, line: int, column: int, end_line: int, end_column: int) -> Span:
        """A span; lines and columns count from 0. What goes over a line's end is cut there."""
        if line >= len(self._lines):  # the end of the text
            line, column, end_column = len(self._lines) - 1, MOST_BYTES, MOST_BYTES
            end_line = line
        text = self._lines[line]
        column, end_column = min(column, len(text)), min(end_column, len(text))
        end = end_column if end_line == line else len(text.rstrip())
        first = self._place.prefix if line == 0 else ""
        return Span(
            self._place.name,
            line + 1 if self._place.numbered else 0,
            len(first) + column + 1,
            len(first) + max(end, column + 1) + 1,
            first + text,
        )

    def at(self, line: int, column: int) -> Span:
        """The span of one character."""
        return self.span(line, column, line, column + 1)

    def ended(self, line: int, column: int) -> bool:
        """Whether nothing but blanks follows a place."""
        rest = [part[column * (not place) :] for place, part in enumerate(self._lines[line:])]
        return not "".join(rest).strip()

    def character(self, line: int, column: int) -> str:
        """The character at a place, empty at the end of a line."""
        return self._lines[line][column : column + 1] if line < len(self._lines) else ""


def too_large(span: Span, what: str, limit: int, unit: str) -> Problem:
    """The problem that a limit is passed."""
    return Problem(
        "E010",
        f"{what} for a graph",
        span,
        expected=f"at most {limit:,} {unit}",
        help="a graph describes wiring; keep data and tables in files of their own",
    )


def decoded(raw: bytes, name: str) -> str | Problem:
    """The text of a file, or why it is none."""
    if len(raw) > MOST_BYTES:
        return too_large(Span(name), "the file is too large", MOST_BYTES, "bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = raw.count(b"\n", 0, failure.start) + 1
        before = raw[: failure.start].rpartition(b"\n")[2]
        column = len(before.decode("utf-8-sig", "replace")) + 1
        rest = raw[failure.start :].partition(b"\n")[0].rstrip(b"\r")
        text = shown((before + rest).decode("utf-8-sig", "replace"))
        return Problem(
            "E002",
            "not UTF-8 text",
            Span(name, line, column, column + 1, text),
            got=f"byte 0x{raw[failure.start]:02x}",
            help="save the file as UTF-8",
        )
    return text


def shown(text: str) -> str:
    """The text with a mark in place of each control character, safe to print."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def unprintable(text: str, span_at: Callable[[int, int], Span]) -> Problem | None:
    """The first control character, which YAML does not allow, as a problem."""
    match = _CONTROL.search(text)
    if match is None:
        return None
    before = LINE_END.split(text[: match.start()])
    span = span_at(len(before) - 1, len(before[-1]))
    return Problem(
        "E002",
        "a character that YAML does not allow",
        span,
        got=f"U+{ord(match.group()):04X}",
        help="remove it; most editors show it when asked for invisible characters",
    )
