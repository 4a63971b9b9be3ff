"""Wires: references plugged in, cycles, and what flows: kinds and views.

Codes: E201 no such loss - E203 wrong kind - E206 cycle - E209 no such view - E210 views do not suit
the node, or are too many - E211 views of several kinds in one list - E212 not a loss; those of
`references` and `masks`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import networkx as nx

from sslgraph.chain import chain_identities
from sslgraph.checks import masks
from sslgraph.checks.members import Bound
from sslgraph.checks.references import DATA, Wire, Wiring, plug, resolve
from sslgraph.errors import Problem, did_you_mean
from sslgraph.ports import BATCH, Identities, Kind
from sslgraph.spec import Graph

MOST_VIEWS = 4096
"""Views of one port; lists of lists would double them without end."""


def connect(graph: Graph, nodes: Mapping[str, Bound]) -> tuple[Wiring, list[Problem]]:
    """Resolve every reference of a graph.

    Args:
        graph: The graph.
        nodes: Its nodes as `settings.bind` found them; a node of unknown type is missing there.
    """
    wiring = Wiring(graph, nodes)
    problems: list[Problem] = []
    for name, bound in nodes.items():
        wiring.inputs[name] = plug(graph, nodes, bound, problems)
    for name in graph.minimize:
        _minimised(wiring, name, problems)
    for name, reference in graph.outputs.items():
        wire = resolve(graph, nodes, reference, problems)
        if wire:
            wiring.outputs[name] = wire
    if _ordered(wiring, problems):
        for name in wiring.order:
            _follow(wiring, name, problems)
        _stored_later_fits(wiring, problems)
        for wire in wiring.outputs.values():
            _views_exist(wiring, wire, problems)
        _losses_are_losses(wiring, problems)
        problems += masks.uneven(wiring)
    return wiring, problems


def _minimised(wiring: Wiring, name: str, problems: list[Problem]) -> None:
    graph = wiring.graph
    span = graph.document.span("minimize", name, key=True)
    if not graph.nodes:
        return  # reading has said so
    if name not in graph.nodes:
        losses = [n for n, bound in wiring.nodes.items() if bound.declaration.is_loss]
        hint = did_you_mean(name, losses, show="losses")
        problems.append(Problem("E201", f"no node named '{name}'", span, under=hint))
        return
    if name in wiring.nodes:
        wiring.losses[name] = (name, wiring.nodes[name].declaration.main)


def _losses_are_losses(wiring: Wiring, problems: list[Problem]) -> None:
    losses = [n for n, bound in wiring.nodes.items() if bound.declaration.is_loss]
    for name in list(wiring.losses):
        declared = wiring.nodes[name].declaration
        if declared.is_loss:
            continue
        del wiring.losses[name]
        fits = f"{losses[0]} would fit here" if losses else "minimise a loss node"
        problems.append(
            Problem(
                "E212",
                f"{name} is not a loss",
                wiring.graph.document.span("minimize", name, key=True),
                expected="the name of a loss node",
                got=f"{name}, a {declared.use}",
                help=fits,
            )
        )


def _ordered(wiring: Wiring, problems: list[Problem]) -> bool:
    """Put producers first; a cycle is one problem at the wire that closes it."""
    flow = wiring.flow()
    rank = {name: place for place, name in enumerate(wiring.inputs)}
    for members in sorted(
        nx.strongly_connected_components(flow), key=lambda c: min(rank[n] for n in c)
    ):
        part = flow.subgraph(members)
        if len(members) == 1 and not part.number_of_edges():
            continue
        first = min(members, key=rank.__getitem__)
        edges = list(nx.find_cycle(part, first))
        path = " -> ".join([edges[0][0], *(edge[1] for edge in edges)])
        wire: Wire = flow.edges[edges[-1][0], edges[-1][1]]["wire"]
        problems.append(
            Problem(
                "E206",
                "the wires form a cycle",
                wiring.graph.document.span(*wire.reference.path),
                got=path,
                help="cut one of these wires; only state (a queue, an ema) may reach back in time",
            )
        )
    if not nx.is_directed_acyclic_graph(flow):
        return False
    _prefer(flow, wiring)
    wiring.order = list(nx.lexicographical_topological_sort(flow, key=rank.__getitem__))
    return True


def _prefer(flow: nx.DiGraph[str], wiring: Wiring) -> None:
    """Put a node behind what it repeats and what it stores, where the wires leave that open.

    So their sizes are known first; where state leads back in time, they are not needed first.
    """
    for name, bound in wiring.nodes.items():
        stored = [
            wire.source[0]
            for port in bound.declaration.written
            for wire in wiring.inputs[name].get(port, ())
        ]
        for before in [*(member.node for member in bound.members), *stored]:
            if before != name and before in flow and not nx.has_path(flow, name, before):
                flow.add_edge(before, name)


def _follow(wiring: Wiring, name: str, problems: list[Problem]) -> None:
    """Carry kinds and views through one node."""
    bound = wiring.nodes[name]
    variables: dict[str, str] = {}
    arriving: dict[str, Identities] = {}
    later = _stored_later(wiring, name)
    sound = bound.config is not None
    for port, wires in wiring.inputs[name].items():
        if port in later:
            continue
        _note_kind(wiring, name, port, variables, problems)
        views = [_views_exist(wiring, wire, problems) for wire in wires]
        if all(v is not None for v in views):
            arriving[port] = tuple(i for v in views if v is not None for i in v)
        else:
            sound = False
    for port, out in bound.declaration.outputs.items():
        kind = variables.get(out.kind.variable) if out.kind.variable else out.kind.allowed[0]
        if kind:
            wiring.kinds[name, port] = kind
    if any(len(views) > MOST_VIEWS for views in arriving.values()):
        problems.append(_too_many(wiring, name))
        return
    if sound and {*arriving, *later} >= set(bound.declaration.required):
        made = _made(bound, arriving)
        wiring.identities.update({(name, port): views for port, views in made.items()})
        _review(wiring, bound, arriving, problems)


def _note_kind(
    wiring: Wiring, name: str, port: str, variables: dict[str, str], problems: list[Problem]
) -> None:
    """Judge the kinds that come into a port, and note what its variable stands for."""
    kinds = [_kind_fits(wiring, name, port, w, problems) for w in wiring.inputs[name][port]]
    known = sorted({kind for kind in kinds if kind})
    if len(known) > 1:
        _mixed(wiring, name, port, known, problems)
    variable = wiring.nodes[name].declaration.inputs[port].kind.variable
    if variable and len(known) == 1 and variables.setdefault(variable, known[0]) != known[0]:
        _unlike(wiring, name, port, (variables[variable], known[0]), problems)


def _stored_later(wiring: Wiring, name: str) -> list[str]:
    """Inputs of a node that only its memory takes, from nodes that read that memory first."""
    after = set(wiring.order[wiring.order.index(name) + 1 :])
    declared = wiring.nodes[name].declaration
    return [
        port
        for port, wires in wiring.inputs[name].items()
        if not declared.inputs[port].is_read and any(wire.source[0] in after for wire in wires)
    ]


def _stored_later_fits(wiring: Wiring, problems: list[Problem]) -> None:
    """Judge the wires that lead back in time, once all ports are known."""
    for name in wiring.order:
        for port in _stored_later(wiring, name):
            for wire in wiring.inputs[name][port]:
                _kind_fits(wiring, name, port, wire, problems)
                _views_exist(wiring, wire, problems)


def _made(bound: Bound, arriving: Mapping[str, Identities]) -> Mapping[str, Identities]:
    """The views of each output."""
    if bound.members:
        return chain_identities(bound.members, arriving)
    return bound.declaration.identities(bound.spec.name, bound.config, arriving)


def _too_many(wiring: Wiring, name: str) -> Problem:
    return Problem(
        "E210",
        f"{name} gets more than {MOST_VIEWS} views",
        wiring.graph.document.span("nodes", name, "in"),
        help="each list of references adds up its views; name fewer",
    )


def _kind_fits(
    wiring: Wiring, name: str, port: str, wire: Wire, problems: list[Problem]
) -> str | None:
    kind = BATCH[wire.source[1]][0] if wire.source[0] == DATA else wiring.kinds.get(wire.source)
    declared = wiring.nodes[name].declaration.inputs[port]
    if kind is None or kind in declared.kind.allowed:
        return kind
    fits = " or ".join(_would_fit(wiring, declared.kind, wire.source[0], name))
    other = _swapped(wiring, name, port, kind)
    problems.append(
        Problem(
            "E203",
            f"{wire.reference.text} cannot feed {name}.{port}",
            wiring.graph.document.span(*wire.reference.path),
            under=kind,
            expected=f"{declared.kind} (input {_of(wiring.nodes[name], port)})",
            got=f"{kind} from {_origin(wiring, wire)}",
            help=f"{port} and {other} look swapped"
            if other
            else f"{fits} would fit here"
            if fits
            else "",
        )
    )
    return None


def _of(bound: Bound, port: str) -> str:
    """Which input is meant: ``image of encoder``, or of the node that is repeated."""
    if not bound.members:
        return f"{port} of {bound.declaration.use}"
    member = next((m for m in bound.members if port.startswith(f"{m.name}.")), bound.members[0])
    return f"{port.rpartition('.')[2]} of {member.path}, which {bound.spec.name} repeats"


def _swapped(wiring: Wiring, name: str, port: str, kind: str) -> str:
    """Another input of a node that takes this kind, while what it is given fits here; or ''."""
    declared = wiring.nodes[name].declaration.inputs
    for other, wires in wiring.inputs[name].items():
        given = {wiring.kinds.get(wire.source, "") for wire in wires}
        fits = given <= set(declared[port].kind.allowed) and kind in declared[other].kind.allowed
        if other != port and fits and not given & set(declared[other].kind.allowed):
            return other
    return ""


def _would_fit(wiring: Wiring, kind: Kind, near: str, consumer: str) -> Iterable[str]:
    """Up to three ports of this kind: of the same node, of what feeds it, of other producers."""
    before = wiring.order[: wiring.order.index(consumer)][::-1]
    feeding = set() if near == DATA else nx.ancestors(wiring.flow(), near)
    ordered = [near, *sorted(before, key=lambda name: name not in feeding)]
    found = 0
    for name in dict.fromkeys(ordered):
        if name == DATA:
            continue
        declared = wiring.nodes[name].declaration
        for port in declared.outputs:
            if wiring.kinds.get((name, port)) in kind.allowed and found < 3:
                found += 1
                yield name if port == declared.main else f"{name}.{port}"


def _origin(wiring: Wiring, wire: Wire) -> str:
    node, port = wire.source
    if node == DATA:
        return f"the data ({node}.{port})"
    line = wiring.graph.document.span("nodes", node, key=True).line
    return f"{node}.{port}" + (f", declared at line {line}" if line else "")


def _mixed(wiring: Wiring, name: str, port: str, kinds: list[str], problems: list[Problem]) -> None:
    path = wiring.inputs[name][port][0].reference.path[:-1]
    problems.append(
        Problem(
            "E211",
            f"the list into {name}.{port} joins views of different kinds",
            wiring.graph.document.span(*path),
            expected="one kind",
            got=" and ".join(kinds),
            help="use a second node for the other kind",
        )
    )


def _unlike(
    wiring: Wiring, name: str, port: str, kinds: tuple[str, str], problems: list[Problem]
) -> None:
    wire = wiring.inputs[name][port][0]
    problems.append(
        Problem(
            "E211",
            f"{wire.reference.text} is of another kind than what {name} takes beside it",
            wiring.graph.document.span(*wire.reference.path),
            expected=kinds[0],
            got=f"{kinds[1]} from {_origin(wiring, wire)}",
        )
    )


def _views_exist(wiring: Wiring, wire: Wire, problems: list[Problem]) -> Identities | None:
    """The views that a wire carries, or None where that is unknown."""
    known = (DATA,) if wire.source[0] == DATA else wiring.identities.get(wire.source)
    if known is None:
        return None
    taken = wire.views_of(known)
    if wire.reference.sliced and (not taken or (wire.reference.stop or 0) > len(known)):
        node = f"{wire.source[0]}.{wire.source[1]}"
        there = "one view, 0" if len(known) == 1 else f"{len(known)} views, 0 to {len(known) - 1}"
        problems.append(
            Problem(
                "E209",
                f"{wire.reference.text} takes a view that is not there",
                wiring.graph.document.span(*wire.reference.path),
                expected=f"{node} has {there}",
            )
        )
        return None
    return taken


def _review(
    wiring: Wiring, bound: Bound, arriving: Mapping[str, Identities], problems: list[Problem]
) -> None:
    fault = bound.declaration.review(bound.config, arriving)
    if not fault:
        return
    title, _, remedy = fault.partition("; ")
    problems.append(
        Problem(
            "E210",
            f"{bound.spec.name}: {title}",
            wiring.graph.document.span("nodes", bound.spec.name, "in"),
            help=remedy,
        )
    )
