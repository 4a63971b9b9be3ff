"""The plan of a checked graph: which node runs when, on which wires, and what is written then.

The plan is the only order there is. `walk` runs it node by node; `emit` turns it into source.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sslgraph.checks import collapse, effects, masks, references, settings, training, wires
from sslgraph.checks.live import Live, live, shortened
from sslgraph.checks.members import Bound
from sslgraph.checks.references import DATA, Port, Wire, Wiring
from sslgraph.errors import GraphError, Problem, Span, did_you_mean, errors_of, in_file_order
from sslgraph.ports import Declaration, Identities, Member, Pairs, Visible
from sslgraph.spec import Graph, NodeSpec, Reference

# The shorter side of an input image, relative to the largest view: 256 pixels for views of 224.
CANVAS = 8 / 7


@dataclass(frozen=True)
class Step:
    """One call of one node.

    Args:
        spec: The node as it was written.
        declaration: Its type.
        config: Its settings.
        members: The nodes that it repeats.
        inputs: The wires of each plugged input, in declared order.
        views: The crops that the views of each plugged input came from.
        span: Where the node stands.
    """

    spec: NodeSpec
    declaration: Declaration
    config: Any
    members: tuple[Member, ...]
    inputs: dict[str, tuple[Wire, ...]]
    views: dict[str, Identities]
    span: Span

    @property
    def name(self) -> str:
        """The node's name."""
        return self.spec.name

    def wires(self, at: str) -> dict[str, tuple[Wire, ...]]:
        """The plugged inputs of one moment, ``read`` or ``write``."""
        chosen = self.declaration.reads if at == "read" else self.declaration.written
        return {name: wires for name, wires in self.inputs.items() if name in chosen}

    @property
    def pairs(self) -> Pairs:
        """The pairs of views that a loss compares; none where it compares none."""
        return self.declaration.pairs(self.config, self.views)

    @property
    def trained(self) -> bool:
        """Whether its parameters are trained."""
        return self.spec.train is None or self.spec.train.enabled


@dataclass(frozen=True)
class Plan:
    """The nodes that a graph needs, producers first.

    Args:
        graph: The graph.
        steps: One step a node.
        losses: Entry of `minimize` -> port.
        outputs: Entry of `outputs` -> wire.
        kinds: Kind of each port.
        identities: Views of each port.
    """

    graph: Graph
    steps: tuple[Step, ...]
    losses: dict[str, Port]
    outputs: dict[str, Wire]
    kinds: dict[Port, str]
    identities: dict[Port, Identities]

    def step(self, name: str) -> Step:
        """The step of a node."""
        return next(step for step in self.steps if step.name == name)

    def largest_view(self) -> int:
        """Pixels of the side of the largest view that a node makes; 224 where none makes one."""
        sizes = [step.declaration.largest_crop(step.config) for step in self.steps]
        return max((size for size in sizes if size), default=224)

    def canvas(self) -> int:
        """Pixels of the shorter side of an input image: 8/7 of the largest view."""
        return math.ceil(self.largest_view() * CANVAS - 1e-9)

    def kept(self, step: Step, axes: Mapping[str, int]) -> dict[str, Visible | None]:
        """How many places the masks into a step leave visible.

        Args:
            step: The step.
            axes: The sizes of the axes that its inputs have.

        Returns:
            For each plugged input that takes masks the number, None where it is not known.
        """
        steps = {s.name: s for s in self.steps}
        inputs = {s.name: s.inputs for s in self.steps}
        found = {}
        for port in step.inputs:
            declared = step.declaration.inputs[port]
            places = axes.get(declared.axes[-1]) if declared.axes else None
            masked = declared.kind.allowed == ("mask",) and declared.is_read
            if not masked or places is None:  # it is built ahead, for what comes into a copy
                continue
            wires = step.inputs[port]
            made = dict.fromkeys(o for w in wires for o in masks.origins(steps, inputs, w.source))
            found[port] = masks.together([masks.kept(steps[o[0]], o[1], places) for o in made])
        return found

    def needed(self, fetch: Iterable[Port], feed: Iterable[Port] = ()) -> list[Step]:
        """The steps that these ports need, in order; what is fed is not computed."""
        given = set(feed)
        wanted = {port for port in fetch if port not in given}
        chosen = []
        for step in reversed(self.steps):
            made = {(step.name, port) for port in step.declaration.outputs}
            if not made & wanted:
                continue
            chosen.append(step)
            sources = {w.source for ws in step.wires("read").values() for w in ws}
            wanted |= {source for source in sources if source not in given}
        return chosen[::-1]

    def wire(self, text: str) -> Wire:
        """The wire that a reference such as ``encoder.embedding`` or ``views.0`` means.

        Raises:
            GraphError: There is no such node or port.
        """
        reference = Reference.parse(text, ())
        span = Span("<reference>", 0, 1, len(text) + 1, text)
        if reference is None:
            raise GraphError((Problem("E207", f"'{text}' is no reference", span),))
        nodes = {s.name: Bound(s.spec, s.declaration, s.config) for s in self.steps}
        if reference.node not in (DATA, *nodes):
            hint = did_you_mean(reference.node, [*nodes, DATA], show="nodes")
            problem = Problem("E201", f"no node named '{reference.node}'", span, under=hint)
            raise GraphError((problem,))
        problems: list[Problem] = []
        wire = references.resolve(self.graph, nodes, reference, problems)
        if wire is None:
            raise GraphError(tuple(problems))
        return wire


def make_plan(graph: Graph) -> Plan:
    """Plan a graph.

    Raises:
        GraphError: The graph's text, settings or wires are wrong; all problems are in it.
    """
    wiring, problems = examine(graph)
    wrong = errors_of(problems)
    if wrong:
        raise GraphError(tuple(wrong))
    return plan_of(wiring)


def examine(graph: Graph) -> tuple[Wiring, list[Problem]]:
    """Everything that the passes without torch find, and the wiring as far as it is sound."""
    nodes, problems = settings.bind(graph)
    wiring, wrong = wires.connect(graph, nodes)
    problems += [*wrong, *graph.problems, *training.review(wiring)]
    problems += effects.review(wiring, sound=not errors_of(problems))
    problems += collapse.review(wiring, sound=not errors_of(problems))
    return wiring, in_file_order(problems)


def plan_of(wiring: Wiring) -> Plan:
    """The plan of a sound wiring; what nobody needs is left out."""
    needed = live(wiring)
    steps = tuple(_step(wiring, name, needed) for name in wiring.order if name in needed.nodes)
    return Plan(wiring.graph, steps, wiring.losses, wiring.outputs, wiring.kinds, wiring.identities)


def _step(wiring: Wiring, name: str, needed: Live) -> Step:
    bound = shortened(wiring.nodes[name], needed.lengths.get(name, 0))
    declared = bound.declaration
    inputs = {p: wires for p, wires in wiring.inputs[name].items() if p in declared.inputs}
    return Step(
        spec=bound.spec,
        declaration=declared,
        config=bound.config,
        members=bound.members,
        inputs=inputs,
        views={port: wiring.views(wires) for port, wires in inputs.items()},
        span=wiring.graph.document.span("nodes", name, key=True),
    )
