"""A difference in words: one line for each thing that differs, and one that counts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sslgraph.canonical import WIDTH, canonical, flow
from sslgraph.comparing.difference import Difference, OneSided, SettingChange, Value, WireChange

Mark = Literal["", "+", "-", "~"]
"""What a line is: a heading, something added, removed or changed."""

_WIDEST_NAME = 40


@dataclass(frozen=True)
class Line:
    """A line of a summary.

    Args:
        mark: What it is.
        name: What it is about.
        text: What there is to say of it.
        width: Columns of the names above and below.
        indent: Columns before the mark.
    """

    mark: Mark
    name: str
    text: str = ""
    width: int = 0
    indent: int = 2

    def __str__(self) -> str:
        if not self.mark:
            return f"{self.name} {self.text}".rstrip()
        return f"{' ' * self.indent}{self.mark} {self.name:{self.width}} {self.text}".rstrip()


@dataclass(frozen=True)
class _Entry:
    mark: Mark
    name: str
    before: str
    after: str
    lines: tuple[str, ...] = ()  # the same over several lines, where one would be too long


def summary(difference: Difference) -> Iterator[Line]:
    """The lines that a person reads; one line where nothing differs."""
    if difference.equal:
        yield Line("", f"{difference.a} and {difference.b}:", "no difference")
        return
    yield Line("", f"{difference.a} -> {difference.b}:", counted(difference))
    groups = (
        ("nodes", list(_nodes(difference))),
        ("wires", [_wire(change) for change in difference.wires]),
        ("settings", [_setting(change) for change in difference.settings]),
        ("run", [_setting(change) for change in difference.run]),
    )
    for title, entries in groups:
        if entries:
            yield Line("", title)
            yield from _aligned(entries)


def counted(difference: Difference) -> str:
    """How much differs: `1 node added, 2 settings changed`."""
    parts = (
        (difference.added, "node", "added"),
        (difference.removed, "node", "removed"),
        (difference.renamed, "node", "renamed"),
        (difference.wires, "input", "rewired"),
        (difference.settings, "setting", "changed"),
        (difference.run, "value of the run", "changed"),
    )
    return ", ".join(f"{_plural(len(items), what)} {how}" for items, what, how in parts if items)


def _plural(number: int, noun: str) -> str:
    first, _, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'} {rest}".rstrip()


def sides(change: SettingChange | WireChange) -> tuple[str, str]:
    """Before and after in words, empty where there is nothing."""
    entry = _wire(change) if isinstance(change, WireChange) else _setting(change)
    return entry.before, entry.after


def mark_of(change: SettingChange | WireChange) -> Mark:
    """Whether something was added, removed or changed."""
    return "~" if change.before and change.after else "+" if change.after else "-"


def _nodes(difference: Difference) -> Iterator[_Entry]:
    for pair in difference.renamed:
        yield _Entry("~", f"{pair.before} -> {pair.after}", "", "renamed")
    for node in difference.removed:
        yield _described("-", node)
    for node in difference.added:
        yield _described("+", node)


def _described(mark: Mark, node: OneSided) -> _Entry:
    keys = {"use": node.use, **node.written}
    lines = [line for key, value in keys.items() for line in canonical({key: value}).splitlines()]
    return _Entry(mark, node.name, "", flow(keys), tuple(lines))


def _wire(change: WireChange) -> _Entry:
    before, after = (_listed(texts) for texts in (change.before, change.after))
    return _Entry(mark_of(change), f"{change.where}:", before, after)


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]" if texts else ""


def _setting(change: SettingChange) -> _Entry:
    before, after = (_shown(value) for value in (change.before, change.after))
    return _Entry(mark_of(change), f"{change.where}:", before, after)


def _shown(value: Value | None) -> str:
    if value is None:
        return ""
    return flow(value.data) + (" (default)" if value.default else "")


def _aligned(entries: Sequence[_Entry]) -> Iterator[Line]:
    """Entries with their names below each other; what is too long has its parts below its name."""
    width = min(_WIDEST_NAME, max(len(entry.name) for entry in entries))
    for entry in entries:
        text = " -> ".join(part for part in (entry.before, entry.after) if part)
        line = Line(entry.mark, entry.name, text, width)
        if len(str(line)) <= WIDTH:
            yield line
            continue
        yield Line(entry.mark, entry.name)
        if entry.lines:
            yield from (Line(entry.mark, part, indent=6) for part in entry.lines)
        elif entry.before:
            yield Line("-", entry.before, indent=6)
        if entry.after and not entry.lines:
            yield Line("+", entry.after, indent=6)
