"""`check`: every pass over a graph, all problems at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sslgraph.errors import Problem, errors_of, in_file_order
from sslgraph.plan import Plan, examine, plan_of
from sslgraph.spec import Graph

if TYPE_CHECKING:
    from sslgraph.check_sizes import Sizes


@dataclass
class Report:
    """What all passes found.

    Args:
        problems: In file order.
        plan: The plan, None where settings or wires are wrong.
        sizes: The meta run, None where it was not made.
    """

    problems: list[Problem] = field(default_factory=list)
    plan: Plan | None = None
    sizes: Sizes | None = None


def report(graph: Graph, *, sizes: bool = True) -> Report:
    """Run all passes; a pass that others make pointless is left out.

    Args:
        graph: The graph.
        sizes: Whether to build and run it on the meta device, which imports torch.
    """
    wiring, problems = examine(graph)
    if errors_of(problems):
        return Report(problems)
    plan = plan_of(wiring)
    if not sizes:
        return Report(problems, plan)
    from sslgraph.check_sizes import measure

    measured = measure(plan)
    return Report(in_file_order([*problems, *measured.problems]), plan, measured)


def check(graph: Graph, *, sizes: bool = True) -> list[Problem]:
    """Judge a graph: text, settings, wires, effects, then sizes and gradients.

    Args:
        graph: The graph.
        sizes: Whether to find sizes and gradients by a run on the meta device.

    Returns:
        All problems in file order; an empty list when nothing is wrong.
    """
    return report(graph, sizes=sizes).problems
