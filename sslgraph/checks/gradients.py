"""Which weights a run trains, and how far their gradients and values reach, by declarations alone.

Whether a type has weights that can be trained is `Declaration.learns`. A gradient goes back along
the wires that are read, and ends at types that stop it, at stored values and at kinds that carry
none. Values go further: through stored state, and through copies that follow trained weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from sslgraph.checks.members import Bound
from sslgraph.checks.references import DATA, Inputs, Port, Wire, Wiring
from sslgraph.schedules import Number, Schedule

WITHOUT_GRADIENT = ("mask", "weight", "label", "index", "text")
"""Kinds that carry numbers or choices through which no gradient passes."""


def weighs(weight: Number) -> bool:
    """Whether a loss of this weight has any effect."""
    return isinstance(weight, Schedule) or weight != 0


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


@dataclass(frozen=True)
class Gradients:
    """The trained weights of a sound graph.

    Args:
        nodes: Its nodes.
        inputs: For each node the wires of each plugged input.
        kinds: The kind of each port.
        losses: The nodes that are minimised.
    """

    nodes: Mapping[str, Bound]
    inputs: Mapping[str, Inputs]
    kinds: Mapping[Port, str]
    losses: tuple[str, ...]

    @classmethod
    def of(cls, wiring: Wiring) -> Gradients:
        """Those of a sound wiring."""
        weights = wiring.graph.minimize
        losses = tuple(name for name in wiring.losses if weighs(weights[name]))
        return cls(wiring.nodes, wiring.inputs, wiring.kinds, losses)

    def trains(self, name: str) -> bool:
        """Whether a node has weights of its own that train."""
        bound = self.nodes[name]
        enabled = bound.spec.train is None or bound.spec.train.enabled
        return enabled and bound.declaration.learns and not bound.declaration.repeats

    def origins(self, path: str, *, through_copies: bool) -> frozenset[str]:
        """The nodes whose trained weights are used under a path such as ``teacher.encoder``.

        Args:
            path: A node, or a member of a node that repeats others.
            through_copies: Whether a copy that follows a node counts as that node.
        """
        node, _, inner = path.partition(".")
        bound = self.nodes[node]
        if not bound.declaration.repeats:
            return frozenset([node] if self.trains(node) else [])
        if bound.declaration.writes and not through_copies:
            return frozenset()
        members = [m.path for m in bound.members if not inner or m.name == inner]
        found = [self.origins(member, through_copies=through_copies) for member in members]
        return frozenset().union(*found)

    def trained_before(self, names: Iterable[str]) -> frozenset[str]:
        """The nodes whose weights get a gradient where these nodes' outputs get one."""
        found: set[str] = set()
        for name in self._before(self._passing, names):
            found |= self.origins(name, through_copies=False)
        return frozenset(found)

    def moving_before(self, names: Iterable[str]) -> frozenset[str]:
        """The nodes whose trained weights the values of these nodes depend on, in whatever way."""
        found: set[str] = set()
        for name in self._before(self._values, names):
            found |= self.origins(name, through_copies=True)
        return frozenset(found)

    def behind(self, names: Iterable[str]) -> list[str]:
        """These nodes and all that they are computed from, in file order."""
        known = self._before(self._reads, names)
        return [name for name in self.nodes if name in known]

    @cached_property
    def reached(self) -> frozenset[str]:
        """The nodes whose weights get a gradient from some loss that is minimised."""
        return self.trained_before(self.losses)

    def ends(self, name: str) -> list[str]:
        """What keeps gradients from a node's weights, a sentence each; none if a loss is met."""
        carriers = [name] + [
            other
            for other, bound in self.nodes.items()
            if bound.declaration.repeats and name in self.origins(other, through_copies=False)
        ]
        reach = set(carriers)
        for carrier in carriers:
            reach |= nx.descendants(self._passing, carrier)
        if reach & set(self.losses):
            return []
        return list(self._stops(reach)) or ["no loss that is minimised comes after it"]

    def followers(self, name: str) -> list[str]:
        """The copies that follow a node's weights, a sentence each."""
        return [
            f"{self.called(other)} follows {name} but sends it no gradient"
            for other, bound in self.nodes.items()
            if bound.declaration.repeats
            and bound.declaration.writes
            and name in self.origins(other, through_copies=True)
        ]

    def called(self, name: str) -> str:
        """A node's name, with its type where that is another word."""
        use = self.nodes[name].declaration.use
        return name if name == use else f"{name} ({use})"

    def _stops(self, reach: set[str]) -> Iterator[str]:
        """The nodes at which gradients end that would go back into some of these."""
        for name, inputs in self.inputs.items():
            declared = self.nodes[name].declaration
            fed = [p for p, wires in inputs.items() if any(w.source[0] in reach for w in wires)]
            if not fed:
                continue
            if not any(declared.inputs[port].is_read for port in fed):
                yield f"{self.called(name)} stores what comes in, without its gradient"
            elif declared.stops_gradient:
                yield f"{self.called(name)} lets no gradient through"
            elif declared.is_loss:
                yield f"{self.called(name)} is not minimised"
            elif not set(self._passing.pred[name]) & reach:
                passing = " or ".join(self.kinds.get(w.source, "") for p in fed for w in inputs[p])
                yield f"{self.called(name)} gets {passing}, which carries no gradient"

    def _wires(self, *, written: bool) -> Iterator[tuple[Wire, str]]:
        """Every wire between nodes, with the node that it feeds."""
        for name, inputs in self.inputs.items():
            declared = self.nodes[name].declaration.inputs
            for port, wires in inputs.items():
                if declared[port].is_read or written:
                    yield from ((wire, name) for wire in wires if wire.source[0] != DATA)

    @cached_property
    def _values(self) -> nx.DiGraph[str]:
        return self._graph((w.source[0], name) for w, name in self._wires(written=True))

    @cached_property
    def _reads(self) -> nx.DiGraph[str]:
        return self._graph((w.source[0], name) for w, name in self._wires(written=False))

    @cached_property
    def _passing(self) -> nx.DiGraph[str]:
        """The wires along which a gradient goes back."""
        return self._graph(
            (wire.source[0], name)
            for wire, name in self._wires(written=False)
            if not self.nodes[name].declaration.stops_gradient
            and self.kinds.get(wire.source) not in WITHOUT_GRADIENT
        )

    def _graph(self, edges: Iterator[tuple[str, str]]) -> nx.DiGraph[str]:
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from(edges)
        return graph

    def _before(self, graph: nx.DiGraph[str], names: Iterable[str]) -> set[str]:
        found = set(names) - {DATA}
        for name in tuple(found):
            found |= nx.ancestors(graph, name)
        return found
