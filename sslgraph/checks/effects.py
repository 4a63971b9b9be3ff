"""Effects: what a graph minimises, and what of it nobody needs.

Codes: E301 nothing to minimise - W303 a node that reaches neither a loss nor an output
"""

from __future__ import annotations

import networkx as nx

from sslgraph.checks.references import DATA, Wiring
from sslgraph.errors import Problem


def review(wiring: Wiring, *, sound: bool) -> list[Problem]:
    """Problems of what a graph does.

    Args:
        wiring: The wiring.
        sound: Whether all its wires are; with a broken one, what is unused is not known.
    """
    problems: list[Problem] = []
    if not wiring.graph.minimize:  # then every node is unused, which says nothing
        return [] if _was_meant(wiring) else [_nothing_to_minimise(wiring)]
    if sound and (wiring.losses or wiring.outputs):
        problems += _unused(wiring)
    return problems


def _unused(wiring: Wiring) -> list[Problem]:
    needed = live(wiring)
    return [
        Problem(
            "W303",
            f"{name} reaches neither a loss nor an output, so it is left out",
            wiring.graph.document.span("nodes", name, key=True),
            help="wire it on, name it in `outputs`, or drop it",
            severity="warning",
        )
        for name in wiring.order
        if name not in needed
    ]


def live(wiring: Wiring) -> set[str]:
    """Names of the nodes that some loss or output needs, through reads and writes of state."""
    flow = wiring.flow()
    for name, inputs in wiring.inputs.items():
        for wires in inputs.values():
            flow.add_edges_from((wire.source[0], name) for wire in wires if wire.source[0] != DATA)
        flow.add_edges_from((member.node, name) for member in wiring.nodes[name].members)
    wanted = {node for node, _ in wiring.losses.values()}
    wanted |= {wire.source[0] for wire in wiring.outputs.values()} - {DATA}
    needed = set(wanted)
    for name in wanted:
        needed |= nx.ancestors(flow, name)
    return needed


def _was_meant(wiring: Wiring) -> bool:
    """Whether something was to be minimised, but its text is wrong, as reading has said."""
    graph = wiring.graph
    misspelt = any(problem.code == "E030" for problem in graph.problems)
    return misspelt or bool(graph.document.data.get("minimize"))


def _nothing_to_minimise(wiring: Wiring) -> Problem:
    losses = [name for name, bound in wiring.nodes.items() if bound.declaration.is_loss]
    document = wiring.graph.document
    example = f"minimize: {{{losses[0]}: 1.0}}" if losses else ""
    return Problem(
        "E301",
        "nothing to minimise",
        document.span("minimize", key=True),
        expected="at least one loss node under `minimize`",
        help=f"add `{example}`" if example else "add a loss node, such as nt_xent, and minimise it",
    )
