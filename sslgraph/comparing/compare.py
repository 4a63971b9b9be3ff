"""`diff`: what differs between two graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sslgraph.comparing.difference import (
    Difference,
    OneSided,
    Renamed,
    SettingChange,
    WireChange,
)
from sslgraph.comparing.parts import Form, Part, Source, as_it_is_meant, as_it_is_written
from sslgraph.comparing.renames import pairs
from sslgraph.comparing.values import ABSENT, Side, as_written, changes
from sslgraph.plan import examine
from sslgraph.source import Path
from sslgraph.spec import Graph


def diff(graph_a: Graph, graph_b: Graph, *, names: tuple[str, str] | None = None) -> Difference:
    """What differs between two graphs.

    Values are compared after `extends`, presets and variables: numbers by value, mappings whatever
    the order of their keys, a setting that is left out as its default. Nodes of one name are the
    same node; a node that differs in nothing but its name is found, too. What a file says about
    itself (`name`, `title`, `paper`, `family`, `summary`) is not compared, nor are `vars` and
    `presets`, whose effects are.

    Where types, settings or references of one of the graphs are wrong, both are compared as they
    are written: defaults are not known then, and `in: y` differs from `in: {x: y}`.

    Args:
        graph_a: The first graph.
        graph_b: The second graph.
        names: What they are called; their own names if left out.
    """
    called = names or (graph_a.name, graph_b.name)
    found = _difference(as_it_is_written(graph_a), as_it_is_written(graph_b), called)
    if found.equal:
        return found  # and no node type had to be imported
    a, b = (as_it_is_meant(examine(graph)[0]) for graph in (graph_a, graph_b))
    if a is None or b is None:
        return replace(found, literal=True)
    return _difference(a, b, called)


def _difference(a: Form, b: Form, called: tuple[str, str]) -> Difference:
    names = pairs(a.nodes, b.nodes)
    place = {name: number for number, name in enumerate(b.nodes)}
    same = [(a.nodes[x], b.nodes[y]) for x, y in sorted(names.items(), key=lambda n: place[n[1]])]
    there = set(names.values())
    return Difference(
        a=called[0],
        b=called[1],
        added=tuple(_one_sided(part) for name, part in b.nodes.items() if name not in there),
        removed=tuple(_one_sided(part) for name, part in a.nodes.items() if name not in names),
        renamed=tuple(Renamed(x.name, y.name, y.use) for x, y in same if x.name != y.name),
        wires=tuple(change for x, y in same for change in _wires(x, y, names)),
        settings=tuple(change for x, y in same for change in _settings(x, y, names)),
        run=tuple(_run(a, b, names)),
    )


def _one_sided(part: Part) -> OneSided:
    return OneSided(part.name, part.use, part.written)


def _wires(a: Part, b: Part, names: Mapping[str, str]) -> Iterator[WireChange]:
    """The inputs of one node that are fed by something else; default ones are none of them.

    One reference means one output, by whatever name: the main output of a node whose type changed
    may be called otherwise.
    """
    before = {a.port(port, names): sources for port, sources in a.inputs.items()}
    fed_a, fed_b = a.feeds(names), b.feeds({})
    left = {a.port(port, names) for port in a.left} & b.left
    for port in dict.fromkeys((*fed_b, *fed_a)):
        old, new = _texts(before, port), _texts(b.inputs, port)
        if fed_a.get(port) != fed_b.get(port) and old != new and port not in left:
            yield WireChange(b.name, port, old, new)


def _texts(inputs: Mapping[str, tuple[Source, ...]], port: str) -> tuple[str, ...]:
    return tuple(source.text for source in inputs.get(port, ()))


def _settings(a: Part, b: Part, names: Mapping[str, str]) -> Iterator[SettingChange]:
    path: Path = ("nodes", b.name)
    yield from changes((*path, "use"), as_written(a.use), as_written(b.use))
    if a.repeats(names) != b.repeats({}):
        yield from changes((*path, "of"), _listed(a.of), _listed(b.of))
    for key in dict.fromkeys((*b.settings, *a.settings)):
        old, new = a.settings.get(key, Side()), b.settings.get(key, Side())
        if a.use == b.use or not old.written is new.written is ABSENT:
            yield from changes((*path, key), old, new)


def _listed(of: tuple[str, ...]) -> Side:
    return as_written(list(of) if len(of) != 1 else of[0]) if of else Side()


def _run(a: Form, b: Form, names: Mapping[str, str]) -> Iterator[SettingChange]:
    yield from changes(("data",), a.data, b.data)
    weights = {_moved(name, names): side for name, side in a.minimize.items()}
    for name in dict.fromkeys((*b.minimize, *weights)):
        path: Path = ("minimize", name)
        yield from changes(path, weights.get(name, Side()), b.minimize.get(name, Side()))
    for name in dict.fromkeys((*b.outputs, *a.outputs)):
        old, new = a.outputs.get(name), b.outputs.get(name)
        if (old and old.key(names)) != (new and new.key({})):
            before, after = (as_written(s.text) if s else Side() for s in (old, new))
            yield from changes(("outputs", name), before, after)  # nothing for one reference
    yield from changes(("train",), a.train, b.train)


def _moved(name: str, names: Mapping[str, str]) -> str:
    """An entry of `minimize`: a node, or one of its outputs."""
    node, dot, port = name.partition(".")
    return names.get(node, node) + dot + port
