"""A plan as boxes and arrows, before any format: what is drawn, and how it is marked.

Nothing here knows a node type by name. What a box looks like follows from what its type declares
(loss, state, draws, stopped gradient) and, where a meta run gave them, from its parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from sslgraph.checks.references import DATA, Port, Wire
from sslgraph.drawing.gradient import Gradient, Passage
from sslgraph.drawing.words import amount, details, number, short
from sslgraph.plan import Plan, Step
from sslgraph.ports import BATCH, Declaration

_LONGEST_CHAIN = 60

Role = Literal["data", "random", "network", "plain", "copy", "memory", "loss", "output"]
Line = Literal["data", "gradient", "stopped", "write", "weights", "output"]
Mark = Literal["added", "removed", "changed", "same"]
"""What became of a part, in a picture of two graphs."""
Shape = tuple[str, ...]
"""A shape as it is shown: sizes, and ``B`` for the batch."""


@dataclass(frozen=True)
class Box:
    """One node, one thing the data gives, or one output.

    Args:
        id: Unique in the picture; a node's own name.
        role: What it is.
        title: First line.
        type: Name of the node type.
        details: Settings that differ from the defaults, and the number of parameters.
        inputs: Names of the inputs that are told apart; none where there is but one.
        stops: Whether no gradient passes it.
        hint: A sentence about it.
        mark: What became of it, None in a picture of one graph.
    """

    id: str
    role: Role
    title: str
    type: str = ""
    details: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    stops: bool = False
    hint: str = ""
    mark: Mark | None = None


@dataclass(frozen=True)
class Arrow:
    """A wire, a write of state, or the way of weights into a node that repeats another.

    Args:
        tail: Id of the box where it begins.
        head: Id of the box where it ends.
        line: What passes.
        input: Which of the head's `inputs` it ends at, if they are told apart.
        port: Output and views that are taken, where it is not all of the main output.
        kind: What its numbers mean; empty where another arrow from the same port says it.
        size: The shape, else the number of views where there are several.
        back: Whether it runs against the order of the plan.
        mark: What became of it, None in a picture of one graph.
    """

    tail: str
    head: str
    line: Line
    input: str = ""
    port: str = ""
    kind: str = ""
    size: str = ""
    back: bool = False
    mark: Mark | None = None

    @property
    def words(self) -> tuple[str, str]:
        """Port, then kind and size, as they are shown: a port called as its kind is named once."""
        if not self.kind or self.kind in self.port.split("."):
            return self.port, self.size
        gap = "" if not self.size else " " if self.size.startswith("[") else ", "
        return self.port, f"{self.kind}{gap}{self.size}"


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn.

    Args:
        title: Heading.
        summary: Sentence under the heading.
        boxes: The data, the nodes in the order of the plan, the outputs.
        arrows: In the order of the boxes where they end.
        regions: Ids of boxes that belong together since no gradient reaches any of them.
        source: The graph's YAML.
    """

    title: str
    summary: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    regions: tuple[tuple[str, ...], ...]
    source: str


def picture(
    plan: Plan,
    shapes: Mapping[Port, Shape] | None = None,
    parameters: Mapping[str, int] | None = None,
    *,
    every_input: bool = False,
) -> Picture:
    """Turn a plan into boxes and arrows.

    An input that the graph left to its default, such as the sample's position, is not drawn.

    Args:
        plan: The plan.
        shapes: Shape of each port, view axis first, where they are known.
        parameters: Number of parameters of each node, where they are known.
        every_input: Whether to name an input that is the only one of its node, too.
    """
    return _Builder(plan, shapes or {}, parameters or {}, least=1 if every_input else 2).picture()


class _Builder:
    def __init__(
        self,
        plan: Plan,
        shapes: Mapping[Port, Shape],
        parameters: Mapping[str, int],
        *,
        least: int,
    ) -> None:
        self._plan = plan
        self._least = least  # inputs of a node whose inputs are told apart
        self._shapes = shapes
        self._parameters = parameters
        self._gradient = Gradient(plan, parameters)
        self._place = {step.name: place for place, step in enumerate(plan.steps)}

    def picture(self) -> Picture:
        graph = self._plan.graph
        wires = tuple(self._wires())
        arrows = (*wires, *self._weights(), *self._outputs(wires))
        nodes = tuple(self._node(step) for step in self._plan.steps)
        return Picture(
            title=graph.title or graph.name,
            summary=graph.summary,
            boxes=(*self._data(arrows), *nodes, *self._sinks()),
            arrows=arrows,
            regions=tuple(self._regions()),
            source=graph.document.text,
        )

    def _data(self, arrows: tuple[Arrow, ...]) -> Iterator[Box]:
        used = {arrow.tail for arrow in arrows}
        for name in BATCH:
            if f"{DATA}.{name}" in used:
                yield Box(f"{DATA}.{name}", "data", f"{DATA}.{name}", hint="what the data gives")

    def _node(self, step: Step) -> Box:
        declaration = step.declaration
        shown = [*_repeated(step), *details(step)]
        if step.name in self._plan.losses:
            shown.append(f"minimize: {number(self._plan.graph.minimize[step.name])}")
        if self._parameters.get(step.name):
            shown.append(f"{amount(self._parameters[step.name])} parameters")
        inputs = tuple(dict.fromkeys(port for port, _ in _drawn(step)))
        return Box(
            id=step.name,
            role=_role(declaration, self._gradient.may_learn(step)),
            title=short(step.name),
            type="" if declaration.use == step.name else short(declaration.use),
            details=tuple(shown),
            inputs=inputs if len(inputs) >= self._least else (),
            stops=declaration.stops_gradient,
            hint=f"{declaration.use}: {declaration.summary}",
        )

    def _sinks(self) -> Iterator[Box]:
        for place, name in enumerate(self._plan.outputs):
            title = short(f"outputs.{name}")
            yield Box(f"outputs.{place}", "output", title, hint="what probes and export use")

    def _wires(self) -> Iterator[Arrow]:
        for step in self._plan.steps:
            for port, wire in _drawn(step):
                yield self._arrow(step, port, wire)

    def _arrow(self, step: Step, port: str, wire: Wire) -> Arrow:
        node, _ = wire.source
        line = _LINES[self._gradient.passage(step, wire)]
        kind, size = self._carried(wire)
        told_apart = len({name for name, _ in _drawn(step)}) >= self._least
        return Arrow(
            tail=".".join(wire.source) if node == DATA else node,
            head=step.name,
            line="write" if not step.declaration.inputs[port].is_read else line,
            input=port if told_apart else "",
            port=self._taken(wire),
            kind=kind,
            size=size,
            back=self._place.get(node, -1) >= self._place[step.name],
        )

    def _weights(self) -> Iterator[Arrow]:
        """A line from each node that another one repeats; the box of that one names them, too."""
        for step in self._plan.steps:
            members = dict.fromkeys(path.partition(".")[0] for path in step.spec.of)
            for name in members:
                if name in self._place:
                    yield Arrow(name, step.name, "weights")

    def _outputs(self, wires: tuple[Arrow, ...]) -> Iterator[Arrow]:
        """Arrows to the outputs; a port that another arrow has labelled is not labelled again."""
        labelled = {(wire.tail, wire.port) for wire in wires}
        for place, wire in enumerate(self._plan.outputs.values()):
            node, _ = wire.source
            tail, port = ".".join(wire.source) if node == DATA else node, self._taken(wire)
            kind, size = ("", "") if (tail, port) in labelled else self._carried(wire)
            yield Arrow(tail, f"outputs.{place}", "output", port=port, kind=kind, size=size)
            labelled.add((tail, port))

    def _taken(self, wire: Wire) -> str:
        """Port and views where a bare reference would mean others."""
        node, port = wire.source
        start, stop = wire.reference.start, wire.reference.stop
        views = ""
        if wire.reference.sliced:
            one = start is not None and stop == start + 1
            ends = ["" if end is None else str(end) for end in (start, stop)]
            views = f".{start}" if one else "." + ":".join(ends)
        if node == DATA or port == self._plan.step(node).declaration.main:
            return views
        return short(port) + views

    def _carried(self, wire: Wire) -> tuple[str, str]:
        """Kind and size of what passes a wire."""
        node, port = wire.source
        kind = BATCH[port][0] if node == DATA else self._plan.kinds.get(wire.source, "")
        shape = self._shapes.get(wire.source)
        start, stop = wire.reference.start or 0, wire.reference.stop
        if shape is not None:
            if shape and wire.reference.sliced:
                shape = (str(len(range(int(shape[0]))[start:stop])), *shape[1:])
            return kind, f"[{' '.join(shape)}]"
        views = len(wire.views_of(self._plan.identities.get(wire.source, ())))
        return kind, f"{views} views" if views > 1 else ""

    def _regions(self) -> Iterator[tuple[str, ...]]:
        """Groups of wired nodes, two or more, through which no gradient passes."""
        still = [step for step in self._plan.steps if self._gradient.is_still(step)]
        names = {step.name for step in still}
        groups: nx.Graph[str] = nx.Graph()
        groups.add_nodes_from(names)
        for step in still:
            groups.add_edges_from(
                (wire.source[0], step.name) for _, wire in _drawn(step) if wire.source[0] in names
            )
        place = self._place.__getitem__
        found = [tuple(sorted(group, key=place)) for group in nx.connected_components(groups)]
        yield from sorted((g for g in found if len(g) > 1), key=lambda group: place(group[0]))


_LINES: Mapping[Passage, Line] = {"data": "data", "passes": "gradient", "stopped": "stopped"}


def _drawn(step: Step) -> Iterator[tuple[str, Wire]]:
    """The wires that the graph spells, by input; defaults stay out of the picture."""
    for port, wires in step.inputs.items():
        left_out = step.declaration.inputs[port].default and port not in step.spec.inputs
        bare = "" in step.spec.inputs and port in step.declaration.required
        if not left_out or bare:
            yield from ((port, wire) for wire in wires)


def _repeated(step: Step) -> Iterator[str]:
    """What a node repeats: it has a state of its own, or the very weights."""
    if step.spec.of:
        what = "copy" if step.declaration.writes else "weights"
        yield short(f"{what} of {', '.join(step.spec.of)}", _LONGEST_CHAIN)


def _role(declaration: Declaration, may_learn: bool) -> Role:
    if declaration.is_loss:
        return "loss"
    if declaration.writes:
        return "copy" if declaration.writes == "step" else "memory"
    if may_learn:
        return "network"
    return "random" if declaration.draws else "plain"
