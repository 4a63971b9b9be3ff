"""Graphs in the form in which they are compared.

As it is meant, a wire is the port that it comes from and a setting what the node type makes of it,
so two ways of writing one thing are equal. That takes known types, sound settings and sound
references; any graph can be taken as it is written.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sslgraph.checks.references import Wire, Wiring
from sslgraph.comparing.values import ABSENT, Side, as_written, plain
from sslgraph.spec import Graph, NodeSpec, Reference
from sslgraph.train_spec import NodeTrain

BARE = "in"
"""The input of a bare reference, where it is not known which one it means."""

_APART = ("use", "in", "of")

Names = Mapping[str, str]
"""New names of nodes by old ones."""


@dataclass(frozen=True)
class Source:
    """What a wire takes.

    Args:
        node: Name of the node, or `batch`.
        port: Its output, None where it is not known which one a bare reference means.
        views: First view and the view after the last one.
        text: The reference as it was written.
    """

    node: str
    port: str | None
    views: tuple[int | None, int | None]
    text: str

    def key(self, names: Names) -> Hashable:
        """What is equal for equal wires, once nodes have other names."""
        port = None if self.port is None else _inside(self.port, names)
        return names.get(self.node, self.node), port, self.views


@dataclass(frozen=True)
class Part:
    """One node.

    Args:
        name: Its name.
        use: Its type.
        of: Paths of the nodes that it repeats.
        inputs: The wires of each plugged input.
        left: Inputs that the graph leaves to their default.
        settings: Its other keys, those that are left to their default included.
        written: Its keys apart from `use`, as they stand in the graph.
    """

    name: str
    use: str
    of: tuple[str, ...]
    inputs: Mapping[str, tuple[Source, ...]]
    left: frozenset[str]
    settings: Mapping[str, Side]
    written: Mapping[str, object]

    def feeds(self, names: Names) -> dict[str, Hashable]:
        """For each input what is equal where it is fed by the same, once nodes have other names."""
        return {
            self.port(port, names): tuple(source.key(names) for source in sources)
            for port, sources in self.inputs.items()
        }

    def port(self, port: str, names: Names) -> str:
        """An input, once nodes have other names: that of a member begins with its name."""
        return _inside(port, names) if self.of else port

    def repeats(self, names: Names) -> tuple[str, ...]:
        """The paths of `of`, once nodes have other names."""
        return tuple(
            ".".join(names.get(word, word) for word in path.split(".")) for path in self.of
        )


@dataclass(frozen=True)
class Form:
    """A graph in the form in which it is compared.

    Args:
        nodes: Its nodes by name.
        minimize: The weight of each loss.
        outputs: What each output takes.
        train: The run.
        data: What the data gives.
    """

    nodes: Mapping[str, Part]
    minimize: Mapping[str, Side]
    outputs: Mapping[str, Source]
    train: Side
    data: Side


def _inside(port: str, names: Names) -> str:
    """A port such as `encoder.tokens`: it begins with the name of a member."""
    first, dot, rest = port.partition(".")
    return f"{names.get(first, first)}.{rest}" if dot else port


def as_it_is_written(graph: Graph) -> Form:
    """The form of any graph."""
    nodes = {}
    for name, spec in graph.nodes.items():
        inputs = {port or BARE: tuple(map(_written, refs)) for port, refs in spec.inputs.items()}
        nodes[name] = _part(graph, spec, inputs, frozenset(), None)
    outputs = {name: _written(reference) for name, reference in graph.outputs.items()}
    return _form(graph, nodes, outputs)


def as_it_is_meant(wiring: Wiring) -> Form | None:
    """The form of a graph, None where types, settings or references are wrong.

    Args:
        wiring: What the checks made of it.
    """
    graph, nodes = wiring.graph, {}
    if len(wiring.outputs) < len(graph.outputs):
        return None
    for name, spec in graph.nodes.items():
        bound = wiring.nodes.get(name)
        if bound is None or bound.config is None:
            return None
        inputs = {port: tuple(map(_resolved, ws)) for port, ws in wiring.inputs[name].items()}
        declared = bound.declaration.inputs
        bare = (bound.declaration.required or [""])[0]
        given = {bound.declaration.port(port or bare) for port in spec.inputs}
        if not given <= inputs.keys():
            return None
        left = frozenset(p for p in inputs if declared[p].default and p not in given)
        nodes[name] = _part(graph, spec, inputs, left, bound.config)
    return _form(graph, nodes, {name: _resolved(wire) for name, wire in wiring.outputs.items()})


def _form(graph: Graph, nodes: Mapping[str, Part], outputs: Mapping[str, Source]) -> Form:
    data = graph.document.data
    return Form(
        nodes=nodes,
        minimize={
            name: Side(data["minimize"][name], plain(weight))
            for name, weight in graph.minimize.items()
        },
        outputs=outputs,
        train=Side(data.get("train", ABSENT), plain(graph.train)),
        data=Side(data.get("data", ABSENT), plain(graph.data)),
    )


def _written(reference: Reference) -> Source:
    views = (reference.start, reference.stop)
    return Source(reference.node, reference.port, views, reference.text)


def _resolved(wire: Wire) -> Source:
    views = (wire.reference.start, wire.reference.stop)
    return Source(*wire.source, views, wire.reference.text)


def _part(
    graph: Graph,
    spec: NodeSpec,
    inputs: Mapping[str, tuple[Source, ...]],
    left: frozenset[str],
    config: object,
) -> Part:
    data = graph.document.data["nodes"][spec.name]
    keys: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    settings = dict(_settings(spec, keys, plain(config)))
    written = {name: value for name, value in keys.items() if name != "use"}
    return Part(spec.name, spec.use, spec.of, inputs, left, settings, written)


def _settings(
    spec: NodeSpec, keys: Mapping[str, object], config: object
) -> Iterator[tuple[str, Side]]:
    means = dict(config) if isinstance(config, Mapping) else {}
    means |= {"train": plain(spec.train or NodeTrain()), "weights": spec.weights}
    for name in dict.fromkeys((*keys, *means)):
        if name not in _APART:
            value = keys.get(name, ABSENT)
            yield name, Side(value, means[name]) if name in means else as_written(value)
