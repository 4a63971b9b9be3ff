"""Comparing values: numbers by value, mappings whatever the order of their keys."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from pydantic import BaseModel

from sslgraph.comparing.difference import SettingChange, Value
from sslgraph.scalars import Scalar
from sslgraph.schedules import Time
from sslgraph.source import Path


class _Absent:
    """The mark of a value that is not there, which `null` is."""


ABSENT = _Absent()


@dataclass(frozen=True)
class Side:
    """A value of one graph.

    Args:
        written: As it stands in the graph, `ABSENT` where it is left out.
        meaning: What that comes to, defaults filled in; `ABSENT` where it comes to nothing.
    """

    written: object = ABSENT
    meaning: object = ABSENT

    def value(self) -> Value | None:
        """The value as a change shows it; a default is shown where it is short."""
        if self.written is not ABSENT:
            return Value(self.written)
        simple = isinstance(self.meaning, Scalar | list) and self.meaning is not None
        return Value(_data(self.meaning), default=True) if simple else None

    def child(self, key: str) -> Side:
        """An entry of a mapping."""
        written = self.written.get(key, ABSENT) if isinstance(self.written, Mapping) else ABSENT
        meaning = self.meaning.get(key, ABSENT) if isinstance(self.meaning, Mapping) else ABSENT
        return Side(written, written if meaning is ABSENT else meaning)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of a mapping, written ones first."""
        both = (self.written, self.meaning)
        found = [key for part in both if isinstance(part, Mapping) for key in part]
        return tuple(dict.fromkeys(found))

    @property
    def items(self) -> Sequence[object]:
        """Items of a list of mappings."""
        written = self.written if isinstance(self.written, list) else []
        return written if any(isinstance(item, Mapping) for item in written) else ()

    @property
    def is_mapping(self) -> bool:
        """Whether it can be compared key by key."""
        shaped = self.written is ABSENT or isinstance(self.written, Mapping)
        return shaped and isinstance(self.meaning, Mapping)


def as_written(value: object) -> Side:
    """A value that means just what it says."""
    return Side(value, value)


def plain(value: object) -> object:
    """A validated value as the data that one would write for it."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        return {field.alias or name: plain(getattr(value, name)) for name, field in fields}
    if isinstance(value, Mapping):
        return {name: plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain(child) for child in value]
    return str(value) if isinstance(value, Time) else value


def _data(value: object) -> object:
    """Plain data, with a text for whatever is none."""
    if isinstance(value, Mapping):
        return {name: _data(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_data(child) for child in value]
    return value if isinstance(value, Scalar) else str(value)


def key(value: object) -> Hashable:
    """What equal values have in common: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, Mapping):
        return frozenset((name, key(child)) for name, child in value.items())
    if isinstance(value, list | tuple):
        return tuple(key(child) for child in value)
    if isinstance(value, bool):
        return ("truth", value)
    return value if isinstance(value, Hashable) else repr(value)


def changes(path: Path, a: Side, b: Side) -> Iterator[SettingChange]:
    """The smallest parts in which two values differ.

    Mappings are compared key by key. Lists of mappings are compared item by item; all else is
    shown whole.

    Args:
        path: Where both stand.
        a: The value of the first graph.
        b: The value of the second graph.
    """
    if key(a.meaning) == key(b.meaning):
        return
    if a.is_mapping and b.is_mapping:
        for name in dict.fromkeys((*a.keys, *b.keys)):
            yield from changes((*path, name), a.child(name), b.child(name))
    elif a.items and b.items:
        yield from _items(path, a, b)
    else:
        yield SettingChange(path, a.value(), b.value())


def _items(path: Path, a: Side, b: Side) -> Iterator[SettingChange]:
    """Items that were taken out, put in or changed; a changed one begins with the same key.

    What a node type makes of a single item is not known, so items are compared as written.
    """
    before, after = ([as_written(item) for item in side.items] for side in (a, b))
    for start, stop, first, last in _unequal(_keys(before), _keys(after)):
        old, new = before[start:stop], after[first:last]
        heads = [_head(side.written) for side in old], [_head(side.written) for side in new]
        matcher = SequenceMatcher(None, *heads, autojunk=False)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            if tag == "equal":
                for place in range(i2 - i1):
                    place_b = first + j1 + place
                    yield from changes((*path, place_b), old[i1 + place], new[j1 + place])
                continue
            for place in range(i1, i2):
                yield SettingChange((*path, start + place), old[place].value(), None)
            for place in range(j1, j2):
                yield SettingChange((*path, first + place), None, new[place].value())


def _unequal(a: Sequence[Hashable], b: Sequence[Hashable]) -> Iterator[tuple[int, int, int, int]]:
    """Stretches of two sequences that stand in each other's place."""
    for tag, *ends in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            yield ends[0], ends[1], ends[2], ends[3]


def _keys(sides: Sequence[Side]) -> list[Hashable]:
    return [key(side.meaning) for side in sides]


def _head(value: object) -> Hashable:
    """What an item is known by: the first key of a mapping."""
    return next(iter(value), None) if isinstance(value, Mapping) else key(value)
