"""References: what a graph's wires are made of, and the port that each reference means.

Codes: E201 no such node - E202 no such port - E205 input missing - E207 no such input -
E208 which input or output is meant
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import networkx as nx

from sslgraph.checks.members import Bound
from sslgraph.errors import Problem, did_you_mean
from sslgraph.ports import BATCH, Identities
from sslgraph.spec import Graph, Reference

DATA = "batch"

Port = tuple[str, str]
"""A port of a graph: node name (or ``batch``) and port name."""


@dataclass(frozen=True)
class Wire:
    """A reference that was resolved: from which port, which of its views."""

    reference: Reference
    source: Port

    def views_of(self, identities: Identities) -> Identities:
        """The identities that pass."""
        return identities[self.reference.start : self.reference.stop]


Inputs = dict[str, tuple[Wire, ...]]


@dataclass
class Wiring:
    """A graph whose references are resolved.

    Args:
        graph: The graph.
        nodes: Each node with its declaration and settings.
        inputs: For each node the wires of each plugged input.
        losses: The port behind each entry of `minimize`.
        outputs: The wire behind each entry of `outputs`.
        order: Node names, producers first, else in file order.
        kinds: The kind that each port carries, where it is known.
        identities: The views that each port carries, where they are known.
    """

    graph: Graph
    nodes: Mapping[str, Bound]
    inputs: dict[str, Inputs] = field(default_factory=dict)
    losses: dict[str, Port] = field(default_factory=dict)
    outputs: dict[str, Wire] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    kinds: dict[Port, str] = field(default_factory=dict)
    identities: dict[Port, Identities] = field(default_factory=dict)

    def reads(self, name: str) -> Iterator[tuple[str, Wire]]:
        """The wires that `forward` of a node needs."""
        declared = self.nodes[name].declaration.inputs
        for port, wires in self.inputs[name].items():
            if declared[port].is_read:
                yield from ((port, wire) for wire in wires)

    def views(self, wires: tuple[Wire, ...]) -> Identities:
        """The crops that the views of joined wires came from; the data is one view."""
        known = [
            wire.views_of((DATA,) if wire.source[0] == DATA else self.identities[wire.source])
            for wire in wires
        ]
        return tuple(identity for part in known for identity in part)

    def flow(self) -> nx.DiGraph[str]:
        """Nodes and read wires as a graph; a write is no edge, so state breaks cycles."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self.inputs)
        for name in self.inputs:
            for _, wire in self.reads(name):
                if wire.source[0] in self.inputs and wire.source[0] != DATA:
                    graph.add_edge(wire.source[0], name, wire=wire)
        return graph


def resolve(
    graph: Graph, nodes: Mapping[str, Bound], reference: Reference, problems: list[Problem]
) -> Wire | None:
    """The port that a reference means, or None with a problem (none if its node is broken)."""
    span = graph.document.span(*reference.path)
    if reference.node == DATA:
        port = reference.port or ""
        if port not in BATCH:
            hint = did_you_mean(port, BATCH, show="the data gives") if port else ""
            hint = hint or f"the data gives: {', '.join(f'{DATA}.{name}' for name in BATCH)}"
            problems.append(
                Problem("E202", f"the data gives no '{reference.text}'", span, under=hint)
            )
            return None
        return Wire(reference, (DATA, port))
    if not graph.nodes:
        return None  # reading has said so
    if reference.node not in graph.nodes:
        hint = did_you_mean(reference.node, [*graph.nodes, DATA], show="nodes")
        title = f"no node named '{reference.node}'"
        problems.append(Problem("E201", title, span, under=hint))
        return None
    if reference.node not in nodes:
        return None
    declared = nodes[reference.node].declaration
    port = declared.port(reference.port) if reference.port else declared.main
    if not port:
        problems.append(
            Problem(
                "E208",
                f"{reference.node} has several outputs and no main one",
                span,
                expected=" or ".join(f"{reference.node}.{name}" for name in declared.outputs),
                help="say which one is meant",
            )
        )
        return None
    inside = [output for output in declared.outputs if output.startswith(f"{port}.")]
    if inside:
        problems.append(
            Problem(
                "E208",
                f"{reference.text} has several outputs and no main one",
                span,
                expected=" or ".join(f"{reference.node}.{output}" for output in inside),
                help="say which one is meant",
            )
        )
        return None
    if port not in declared.outputs:
        if declared.derives and nodes[reference.node].config is None:
            return None  # its settings are wrong, which was reported, and may make this port
        owner = reference.node if declared.members else declared.use
        hint = did_you_mean(port, declared.outputs, show=f"outputs of {owner}")
        title = f"{reference.node} has no output '{port}'"
        problems.append(Problem("E202", title, span, under=hint))
        return None
    return Wire(reference, (reference.node, port))


def plug(graph: Graph, nodes: Mapping[str, Bound], bound: Bound, problems: list[Problem]) -> Inputs:
    """The wires of one node, by input; unknown, missing and doubtful inputs are problems."""
    declared, plugged = bound.declaration, {}
    for given, references in bound.spec.inputs.items():
        port = declared.port(given) if given else _only_required(graph, bound, problems)
        if port is None:
            continue
        if port not in declared.inputs:
            hint = did_you_mean(port, declared.inputs, show=f"inputs of {declared.use}")
            span = graph.document.span("nodes", bound.spec.name, "in", given, key=True)
            title = f"{declared.use} has no input '{port}'"
            problems.append(Problem("E207", title, span, under=hint))
            continue
        wires = [resolve(graph, nodes, reference, problems) for reference in references]
        # A list with a broken reference says nothing of views; better no wire than half of them.
        plugged[port] = tuple(wire for wire in wires if wire) if all(wires) else ()
    _missing(graph, bound, problems)
    for name, input_ in declared.inputs.items():
        if input_.default and name not in plugged:
            path = ("nodes", bound.spec.name)
            texts = [Reference.parse(text, path) for text in input_.default.split()]
            wires = [resolve(graph, nodes, text, problems) for text in texts if text]
            plugged[name] = tuple(wire for wire in wires if wire)
    return {name: plugged[name] for name in declared.inputs if plugged.get(name)}


def _only_required(graph: Graph, bound: Bound, problems: list[Problem]) -> str | None:
    required = bound.declaration.required
    if len(required) == 1:
        return required[0]
    span = graph.document.span("nodes", bound.spec.name, "in")
    use = bound.declaration.use
    if not bound.declaration.inputs:
        problems.append(Problem("E207", f"{use} takes no input", span, help="drop `in`"))
        return None
    example = ", ".join(f"{name}: ..." for name in required or bound.declaration.inputs)
    title = f"{use} has {len(required)} required inputs, so a bare reference is not enough"
    problems.append(Problem("E208", title, span, help=f"write in: {{{example}}}"))
    return None


def _missing(graph: Graph, bound: Bound, problems: list[Problem]) -> None:
    given = bound.spec.inputs
    known = {bound.declaration.port(name) for name in given}
    missing = [name for name in bound.declaration.required if name not in known]
    unknown = any(name not in bound.declaration.inputs for name in known)
    if not missing or unknown:  # a bare reference, or a wrong name that was reported
        return
    declared = bound.declaration
    wants = ", ".join(f"{name}: {declared.inputs[name]}" for name in missing)
    example = (
        "in: ..."
        if len(declared.required) == 1
        else f"in: {{{', '.join(f'{m}: ...' for m in missing)}}}"
    )
    problems.append(
        Problem(
            "E205",
            f"{bound.spec.name} ({declared.use}) has no wire into {', '.join(missing)}",
            graph.document.span("nodes", bound.spec.name, key=True),
            expected=wants,
            help=f"add `{example}`",
        )
    )
