"""Values with the place that each was written at: what is merged before data is made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sslgraph.errors import Problem, Span
from sslgraph.limits import MOST_CHARACTERS, MOST_DEPTH, MOST_NODES, too_large
from sslgraph.scalars import Scalar
from sslgraph.source import Origin, Path

Data = Scalar | list["Data"] | dict[str, "Data"]


@dataclass(frozen=True, eq=False, slots=True)
class Tree:
    """A scalar, a list or a mapping. Trees are shared and never changed."""

    value: Scalar | list[Tree] | dict[str, Tree]
    origin: Origin

    def under(self, key: Span | None) -> Tree:
        """The same value with another key."""
        return Tree(self.value, replace(self.origin, key=key))

    @property
    def mapping(self) -> dict[str, Tree]:
        """The entries, none where it is no mapping."""
        return self.value if isinstance(self.value, dict) else {}


def kind(value: object) -> str:
    """What a value is, in a user's words."""
    names: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
    names |= {str: "text", list: "a list", dict: "a mapping", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)


def parts(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Tree]]:
    """Every part with its path, parents first."""
    yield path, tree
    if isinstance(tree.value, dict):
        for key, child in tree.value.items():
            yield from parts(child, (*path, key))
    elif isinstance(tree.value, list):
        for place, child in enumerate(tree.value):
            yield from parts(child, (*path, place))


def plain(tree: Tree) -> Data:
    """The data alone."""
    if isinstance(tree.value, dict):
        return {key: plain(child) for key, child in tree.value.items()}
    if isinstance(tree.value, list):
        return [plain(child) for child in tree.value]
    return tree.value


def measured(tree: Tree, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a tree stands for and how deep they lie; shared parts are looked at once."""
    if id(tree) not in known:
        children: list[Tree] = []
        if isinstance(tree.value, dict):
            children = list(tree.value.values())
        elif isinstance(tree.value, list):
            children = tree.value
        sizes = [measured(child, known) for child in children]
        known[id(tree)] = (
            1 + sum(size for size, _ in sizes),
            1 + max((depth for _, depth in sizes), default=0),
        )
    return known[id(tree)]


def too_much(tree: Tree) -> Problem | None:
    """The problem that a tree passes the limits once everything it shares is written out."""
    size, depth = measured(tree, {})
    if size > MOST_NODES:
        return too_large(tree.origin.value, "too many values", MOST_NODES, "values")
    if depth > MOST_DEPTH + 1:
        return too_large(tree.origin.value, "nested too deep", MOST_DEPTH, "levels")
    return None


def from_python(data: Mapping[str, object], name: str) -> tuple[Tree, list[Problem]]:
    """The tree of a graph that is given as nested Python data.

    Args:
        data: Mappings, lists, tuples, text, numbers, booleans and None.
        name: Name of the source in problems.
    """
    reader = _PythonReader(name)
    tree = reader.read(data, (), None)
    return tree, reader.problems


class _PythonReader:
    def __init__(self, name: str) -> None:
        self.problems: list[Problem] = []
        self._name = name
        self._count = 0

    def read(self, value: object, path: Path, key: Span | None) -> Tree:
        self._count += 1
        span = self._span(value, path)
        if self._count > MOST_NODES or len(path) > MOST_DEPTH:
            return self._refused(span, None)
        origin = Origin(key, span)
        if isinstance(value, Mapping):
            return Tree(self._entries(value, path), origin)
        if isinstance(value, list | tuple):
            items = [self.read(v, (*path, place), None) for place, v in enumerate(value)]
            return Tree(items, origin)
        if isinstance(value, str) and len(value) > MOST_CHARACTERS:
            self.problems.append(too_large(span, "a long text", MOST_CHARACTERS, "characters"))
            return Tree("", origin)
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is None or (isinstance(value, str | bool | int | float) and finite):
            return Tree(_builtin(value), origin)
        return self._refused(span, value)

    def _entries(self, value: Mapping[object, object], path: Path) -> dict[str, Tree]:
        entries = {}
        for name, child in value.items():
            if isinstance(name, str):
                entries[name] = self.read(child, (*path, name), self._key(path, name, child))
            else:
                span = self._span(name, path)
                self.problems.append(
                    Problem("E007", "a key is not text", span, got=repr(name)[:80])
                )
        return entries

    def _refused(self, span: Span, value: object) -> Tree:
        limited = self._count > MOST_NODES or value is None
        problem = Problem(
            "E013",
            "a value that a graph can't hold",
            span,
            expected="mappings, lists, text, finite numbers, true, false, None",
            got=f"{value!r}"[:80] if isinstance(value, float) else type(value).__name__,
        )
        if limited:
            problem = too_large(Span(self._name), "too much data", MOST_NODES, "values")
        if problem not in self.problems[-1:]:
            self.problems.append(problem)
        return Tree(None, Origin(None, span))

    def _key(self, path: Path, name: str, value: object) -> Span:
        head = _dotted(path) + name
        start = len(_dotted(path)) + 1
        return Span(self._name, 0, start, len(head) + 1, f"{head}: {_short(value)}")

    def _span(self, value: object, path: Path) -> Span:
        if not path:
            return Span(self._name)
        head = f"{_dotted(path)[:-1]}: "
        text = head + _short(value)
        return Span(self._name, 0, len(head) + 1, len(text) + 1, text)


def _builtin(value: str | bool | int | float | None) -> Scalar:
    """Subclasses (numpy floats, enums of text) become what they stand for."""
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return base(value)
    return None


def _dotted(path: Path) -> str:
    return "".join(f"{part}." for part in path)


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return "{...}"
    if isinstance(value, list | tuple):
        return "[...]"
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."
