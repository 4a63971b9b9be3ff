"""Effects: what a graph minimises, what of it nobody needs, and copies that nothing moves.

Codes: E301 nothing to minimise - W303 what reaches neither a loss nor an output - E305 a
copy that follows what is never trained - W308 a loss without weight - W309 a loss that is maximised
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sslgraph.checks.gradients import Gradients, listed, weighs
from sslgraph.checks.live import Live, live
from sslgraph.checks.references import Wiring
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
    problems += _weightless(wiring)
    if sound and (wiring.losses or wiring.outputs):
        problems += _unused(wiring)
    if sound and any(map(weighs, wiring.graph.minimize.values())):
        problems += _unmoved(wiring)
    return problems


def _weightless(wiring: Wiring) -> list[Problem]:
    """Losses of weight 0; where every one is, nothing is minimised."""
    document, weights = wiring.graph.document, wiring.graph.minimize
    idle = [name for name, weight in weights.items() if not weighs(weight)]
    if len(idle) == len(weights):
        title, span = "nothing to minimise: every weight is 0", document.span("minimize", key=True)
        return [Problem("E301", title, span, expected="a loss with a weight other than 0")]
    zero = [
        Problem(
            "W308",
            f"{name} has weight 0, so it is computed but trains nothing",
            document.span("minimize", name),
            help="drop it, or delete it with `null` where it is inherited",
            severity="warning",
        )
        for name in idle
    ]
    return [*zero, *_maximised(wiring)]


def _maximised(wiring: Wiring) -> Iterator[Problem]:
    """Losses of negative weight: training makes them as bad as can be."""
    for name, weight in wiring.graph.minimize.items():
        if isinstance(weight, (int, float)) and weight < 0:
            yield Problem(
                "W309",
                f"{name} is maximised: its weight is negative",
                wiring.graph.document.span("minimize", name),
                expected="a weight above 0, as every loss falls when things get better",
                help="drop the sign, unless the network is to get worse at it",
                severity="warning",
            )


def _unmoved(wiring: Wiring) -> list[Problem]:
    """Copies whose originals never change: they would stay what they were at the start."""
    gradients, needed = Gradients.of(wiring), live(wiring)
    problems = []
    for name, bound in wiring.nodes.items():
        if name not in needed.nodes:
            continue
        members = [member for member in bound.members if member.declaration.learns]
        follows = bound.declaration.repeats and bound.declaration.writes
        origins = {
            member.path: gradients.origins(member.path, through_copies=True) for member in members
        }
        if not (follows and members) or frozenset().union(*origins.values()) & gradients.reached:
            continue
        paths = listed(origins)
        plural = len(members) > 1
        problems.append(
            Problem(
                "E305",
                f"{name} follows {paths}, which {'are' if plural else 'is'} never trained",
                wiring.graph.document.span("nodes", name, "of"),
                notes=tuple(_why_unmoved(gradients, origins)),
                help=f"train {paths} through a loss that is minimised, or, if "
                f"{'they are' if plural else 'it is'} to stay fixed, use a `shared` here",
            )
        )
    return problems


def _why_unmoved(gradients: Gradients, origins: Mapping[str, frozenset[str]]) -> Iterator[str]:
    for path, nodes in origins.items():
        if not nodes:
            yield f"{path} has `train: false`"
        for node in sorted(nodes):
            yield from (f"{node} gets no gradient: {why}" for why in gradients.ends(node))


def _unused(wiring: Wiring) -> list[Problem]:
    needed = live(wiring)
    return [*_unused_nodes(wiring, needed), *_unused_members(wiring, needed)]


def _unused_nodes(wiring: Wiring, needed: Live) -> Iterator[Problem]:
    for name in wiring.order:
        if name not in needed.nodes:
            yield Problem(
                "W303",
                f"{name} reaches neither a loss nor an output, so it is left out",
                wiring.graph.document.span("nodes", name, key=True),
                help=f"wire it on, name it in `outputs`, or drop it ({name}: null in a file that "
                "extends this one)",
                severity="warning",
            )


def _unused_members(wiring: Wiring, needed: Live) -> Iterator[Problem]:
    for name, length in needed.lengths.items():
        members = wiring.nodes[name].members
        if length < len(members):
            left = listed([member.name for member in members[length:]])
            yield Problem(
                "W303",
                f"what {left} would make in {name} reaches neither a loss nor an output, so "
                f"{name} ends after {members[length - 1].name}",
                wiring.graph.document.span("nodes", name, "of"),
                help="wire it on, or shorten `of`",
                severity="warning",
            )


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
