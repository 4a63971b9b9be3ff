"""YAML text to a tree with the place of every key and value, within limits.

| code | what is wrong |
|---|---|
| E002 | not UTF-8, or a control character |
| E003 | not YAML |
| E004 | nothing in it |
| E005 | the top is not a mapping |
| E006 | a key twice |
| E007 | a key that is not text |
| E008 | a tag |
| E009 | more than one document |
| E010 | a limit is passed: size, depth, number of values, length of a text |
| E011 | an alias of nothing, or inside its own anchor |
| E012 | a number that is infinite, not a number or too large |
| E013 | a Python value that a graph can't hold |
| E014 | `<<` with something else than a mapping |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

from sslgraph.errors import Problem, Span, did_you_mean
from sslgraph.limits import (
    MOST_BYTES,
    MOST_CHARACTERS,
    MOST_DEPTH,
    MOST_EVENTS,
    MOST_NODES,
    MOST_PROBLEMS,
    Lines,
    Place,
    too_large,
    unprintable,
)
from sslgraph.scalars import NotFiniteError, Scalar, resolve
from sslgraph.source import Origin
from sslgraph.syntax import broken
from sslgraph.tree import Tree, kind

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its parser is used


def parse(text: str, place: Place) -> tuple[Tree | None, list[Problem]]:
    """The tree of a text; None where the text is too broken to have one.

    Args:
        text: One YAML document.
        place: Where it stands, for the spans.
    """
    if len(text) > MOST_BYTES:
        return None, [too_large(Span(place.name), "too long a text", MOST_BYTES, "bytes")]
    text = text.removeprefix("\ufeff")
    lines = Lines(text, place)
    control = unprintable(text, lines.at)
    if control:
        return None, [control]
    builder = _Builder(lines)
    try:
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            if count > MOST_EVENTS:
                span = builder.span(event)
                builder.stop(
                    too_large(span, "too much text", MOST_EVENTS, "keys, values, brackets")
                )
            builder.take(event)
            if len(builder.problems) >= MOST_PROBLEMS:
                break
    except yaml.MarkedYAMLError as failure:
        builder.problems.append(broken(failure, lines))
    except _StopError:
        pass
    return (None if builder.problems else builder.top), builder.problems


class _StopError(Exception):
    """Reading on makes no sense."""


@dataclass(frozen=True)
class _Anchored:
    tree: Tree
    size: int
    depth: int


@dataclass
class _Open:
    """A list or mapping that is being read."""

    span: Span
    anchor: str | None
    key: Span | None
    is_mapping: bool
    flow: tuple[int, int] | None
    entries: dict[str, Tree] = field(default_factory=dict)
    items: list[Tree] = field(default_factory=list)
    merged: list[Tree] = field(default_factory=list)
    pending: tuple[str | None, Span] | None = None
    size: int = 1
    depth: int = 1

    @property
    def wants_key(self) -> bool:
        return self.is_mapping and self.pending is None


class _Builder:
    def __init__(self, lines: Lines) -> None:
        self.problems: list[Problem] = []
        self.top: Tree | None = None
        self._lines = lines
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._documents = 0

    def span(self, event: yaml.Event) -> Span:
        start, end = event.start_mark, event.end_mark
        assert start is not None  # a parser sets both
        assert end is not None
        return self._lines.span(start.line, start.column, end.line, end.column)

    def stop(self, problem: Problem) -> None:
        self.problems.append(problem)
        raise _StopError

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                help = "keep one graph in a file"
                self.stop(Problem("E009", "a second document", self.span(event), help=help))
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        span = self.span(event)
        self._refuse_tag(event, span)
        if len(self._open) >= MOST_DEPTH:
            self.stop(too_large(span, "nested too deep", MOST_DEPTH, "levels"))
        if self._open and self._open[-1].wants_key:
            self._bad_key(span, "a mapping or list")
        key = self._open[-1].pending[1] if self._open and self._open[-1].pending else None
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.anchor:
            self._anchors[event.anchor] = None
        mark = event.start_mark
        flow = (mark.line, mark.column) if event.flow_style and mark else None
        self._open.append(_Open(span, event.anchor, key, is_mapping, flow))

    def _end(self, event: yaml.CollectionEndEvent) -> None:
        done = self._open.pop()
        span = done.span
        if done.flow:  # from bracket to bracket
            assert event.end_mark is not None
            end = event.end_mark
            span = self._lines.span(*done.flow, end.line, end.column)
        origin = Origin(done.key, span)
        if done.is_mapping:
            entries: dict[str, Tree] = {}
            for tree in reversed(done.merged):
                entries |= tree.mapping
            tree = Tree(entries | done.entries, origin)
        else:
            tree = Tree(done.items, origin)
        if done.anchor:
            self._anchors[done.anchor] = _Anchored(tree, done.size, done.depth)
        self._attach(tree, done.size, done.depth)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        span = self.span(event)
        self._refuse_tag(event, span)
        if len(event.value) > MOST_CHARACTERS:
            self.problems.append(too_large(span, "too long a text", MOST_CHARACTERS, "characters"))
            value: Scalar = ""
        else:
            value = self._resolved(event, span)
        if self._open and self._open[-1].wants_key:
            if isinstance(value, str):
                self._open[-1].pending = (value, span)
            else:
                self._bad_key(span, kind(value))
            return
        key = self._open[-1].pending[1] if self._open and self._open[-1].pending else None
        tree = Tree(value, Origin(key, span))
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(tree, 1, 0)
        self._attach(tree, 1, 0)

    def _resolved(self, event: yaml.ScalarEvent, span: Span) -> Scalar:
        if event.style:  # quoted, or a block of text
            return str(event.value)
        try:
            return resolve(event.value)
        except NotFiniteError as failure:
            expected = "a finite number of at most 64 bits"
            self.problems.append(Problem("E012", str(failure), span, expected=expected))
            return 0.0

    def _alias(self, event: yaml.AliasEvent) -> None:
        span = self.span(event)
        if self._open and self._open[-1].wants_key:
            self._bad_key(span, "an alias")
            return
        name = event.anchor or ""
        anchored = self._anchors.get(name)
        if anchored is None:
            self._bad_alias(name, span)
            return
        if len(self._open) + anchored.depth > MOST_DEPTH:
            self.stop(too_large(span, "nested too deep", MOST_DEPTH, "levels"))
        key = self._open[-1].pending[1] if self._open and self._open[-1].pending else None
        self._attach(anchored.tree.under(key), anchored.size, anchored.depth, span)

    def _bad_alias(self, name: str, span: Span) -> None:
        title = f"*{name} has no anchor &{name} before it"
        help = did_you_mean(name, self._anchors, show="anchors")
        if name in self._anchors:
            title, help = f"*{name} stands inside its own anchor &{name}", "write out what is meant"
        self.problems.append(Problem("E011", title, span, help=help))
        self._attach(Tree(None, Origin(None, span)), 1, 0)

    def _attach(self, tree: Tree, size: int, depth: int, alias: Span | None = None) -> None:
        """Put a finished value where it belongs, counted as if every alias was written out."""
        if not self._open:
            self.top = tree
            return
        into = self._open[-1]
        into.size += size
        into.depth = max(into.depth, depth + 1)
        if into.size > MOST_NODES:
            what = "aliases stand for too many values" if alias else "too many values"
            self.stop(too_large(alias or tree.origin.value, what, MOST_NODES, "values"))
        if not into.is_mapping:
            into.items.append(tree)
            return
        assert into.pending is not None  # a value follows a key
        (name, span), into.pending = into.pending, None
        if name == "<<":
            self._merge(into, tree, alias or tree.origin.value)
        elif name in into.entries:
            self._duplicate(name, span, into.entries[name].origin.key)
        elif name is not None:
            into.entries[name] = tree

    def _merge(self, into: _Open, tree: Tree, span: Span) -> None:
        sources = tree.value if isinstance(tree.value, list) else [tree]
        if any(not isinstance(source.value, dict) for source in sources):
            title = "'<<' takes a mapping or a list of mappings"
            self.problems.append(Problem("E014", title, span, got=kind(tree.value)))
        elif len(into.merged) + len(sources) > MOST_DEPTH:
            self.stop(too_large(span, "too many '<<'", MOST_DEPTH, "in a mapping"))
        else:
            into.merged += sources

    def _duplicate(self, name: str, span: Span, first: Span | None) -> None:
        notes = (f"first at {first}",) if first else ()
        title = f"the key '{name[:80]}' stands twice in one mapping"
        self.problems.append(Problem("E006", title, span, notes=notes, help="remove one of them"))

    def _bad_key(self, span: Span, found: str) -> None:
        help = "quote it if it is meant as a name"
        self.problems.append(Problem("E007", "a key is not text", span, got=found, help=help))
        self._open[-1].pending = (None, span)

    def _refuse_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, span: Span) -> None:
        if event.tag is not None:
            help = "remove it: a graph holds plain values only"
            tag = f"the tag {event.tag[:80]!r} is not allowed"
            self.problems.append(Problem("E008", tag, span, help=help))
