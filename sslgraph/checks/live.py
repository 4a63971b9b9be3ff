"""What of a graph is needed: the nodes that some loss or output comes from, and how much of chains.

A chain (the members of an ema, say) is needed as far as its last member whose outputs are; the rest
of it is left out like a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import networkx as nx

from sslgraph.checks.members import Bound
from sslgraph.checks.references import DATA, Port, Wiring

_Part = tuple[str, int]
"""A node, and which of its members; 0 for a node that repeats none."""


@dataclass(frozen=True)
class Live:
    """What is needed.

    Args:
        nodes: Names of nodes.
        lengths: For each of them that repeats others: how many of its members.
    """

    nodes: frozenset[str]
    lengths: Mapping[str, int]


def live(wiring: Wiring) -> Live:
    """What losses and outputs need, through reads and writes of state."""
    flow = _flow(wiring)
    wanted = [_part(wiring, port) for port in wiring.losses.values()]
    wanted += [_part(wiring, w.source) for w in wiring.outputs.values() if w.source[0] != DATA]
    needed = set(wanted)
    for part in wanted:
        if part in flow:
            needed |= nx.ancestors(flow, part)
    lengths: dict[str, int] = {}
    for name, place in needed:
        if wiring.nodes[name].members:
            lengths[name] = max(lengths.get(name, 0), place + 1)
    return Live(frozenset(name for name, _ in needed), lengths)


def shortened(bound: Bound, length: int) -> Bound:
    """A node that repeats others, with the first members alone."""
    members = bound.members[:length]
    if len(members) == len(bound.members):
        return bound
    gone = tuple(f"{member.name}." for member in bound.members[length:])
    declared = bound.declaration
    kept = replace(
        declared,
        inputs={n: port for n, port in declared.inputs.items() if not n.startswith(gone)},
        outputs={n: port for n, port in declared.outputs.items() if not n.startswith(gone)},
        members=members,
    )
    return replace(bound, declaration=kept, members=members)


def _flow(wiring: Wiring) -> nx.DiGraph[_Part]:
    flow: nx.DiGraph[_Part] = nx.DiGraph()
    for name, bound in wiring.nodes.items():
        for place, member in enumerate(bound.members):
            flow.add_edge(_original(wiring, member.path), (name, place))
            if place:
                flow.add_edge((name, place - 1), (name, place))
        for port, wires in wiring.inputs[name].items():
            reader = (name, _place(bound, port))
            flow.add_edges_from(
                (_part(wiring, wire.source), reader) for wire in wires if wire.source[0] != DATA
            )
    return flow


def _part(wiring: Wiring, port: Port) -> _Part:
    return port[0], _place(wiring.nodes[port[0]], port[1])


def _place(bound: Bound, port: str) -> int:
    """The member that a port of a chain belongs to."""
    names = [member.name for member in bound.members]
    first = port.partition(".")[0]
    return names.index(first) if "." in port and first in names else 0


def _original(wiring: Wiring, path: str) -> _Part:
    """The part that `of:` names: a node with all its members, or one member of it."""
    name, _, inner = path.partition(".")
    members = wiring.nodes[name].members
    if inner:
        return name, [member.name for member in members].index(inner)
    return name, max(0, len(members) - 1)
