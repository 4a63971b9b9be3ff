"""`sslgraph check`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from sslgraph.cli.options import METHOD, changes, examples, own_nodes, read_graph, register
from sslgraph.cli.output import as_data, console, print_json, print_problems, printable
from sslgraph.describe.wording import plural
from sslgraph.errors import GraphError, Problem, errors_of

if TYPE_CHECKING:
    from sslgraph.describe.pairs import LossPairs


@dataclass(frozen=True)
class Verdict:
    """What was found in one file.

    Args:
        source: What the user called it.
        problems: In file order.
        seconds: How long it took.
        nodes: How many nodes the graph has, None where it was not planned.
        parameters: How many parameters, None where they were not counted.
        pairs: For each loss that compares views how many pairs, and by which rule.
    """

    source: str
    problems: Sequence[Problem]
    seconds: float
    nodes: int | None = None
    parameters: int | None = None
    pairs: Sequence[LossPairs] = ()

    def as_data(self) -> dict[str, Any]:
        """For other programs."""
        wrong = len(errors_of(self.problems))
        return {
            "source": self.source,
            "errors": wrong,
            "warnings": len(self.problems) - wrong,
            "nodes": self.nodes,
            "parameters": self.parameters,
            "pairs": {pairs.loss: pairs.count for pairs in self.pairs},
            "seconds": round(self.seconds, 3),
            "problems": [as_data(problem) for problem in self.problems],
        }


@click.command(epilog=examples("sslgraph check mine.yaml --preset tiny"))
@click.argument("sources", type=METHOD, nargs=-1, required=True, metavar="METHOD...")
@changes
@own_nodes
@click.option("--sizes/--no-sizes", default=True, help="Also find sizes and gradients, or don't.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.pass_context
def check(
    ctx: click.Context,
    sources: Sequence[str],
    preset: str | None,
    settings: Sequence[str],
    node_files: Sequence[str],
    *,
    sizes: bool,
    form: str,
) -> None:
    """Find every mistake in a method, with its line and what to do.

    Text, settings and wires are checked first, then sizes and gradients by a run without memory.
    Exits with 1 if there are errors, with 0 if there are only warnings.
    """
    found = []
    for source in sources:
        verdict = _judge(source, preset, settings, node_files, sizes=sizes)
        found.append(verdict)
        if form == "text":
            _print(verdict)
    if form == "json":
        print_json([verdict.as_data() for verdict in found])
    ctx.exit(1 if any(errors_of(verdict.problems) for verdict in found) else 0)


def _judge(
    source: str,
    preset: str | None,
    settings: Sequence[str],
    node_files: Sequence[str],
    *,
    sizes: bool,
) -> Verdict:
    start = time.perf_counter()
    try:
        graph = read_graph(source, preset, settings)
    except GraphError as failure:
        return Verdict(source, failure.problems, time.perf_counter() - start)
    register(node_files)
    from sslgraph.checking import report
    from sslgraph.describe.pairs import loss_pairs

    result = report(graph, sizes=sizes)
    return Verdict(
        source=source,
        problems=result.problems,
        seconds=time.perf_counter() - start,
        nodes=len(result.plan.steps) if result.plan else None,
        parameters=sum(result.sizes.parameters.values()) if result.sizes else None,
        pairs=loss_pairs(result.plan) if result.plan else (),
    )


def _print(verdict: Verdict) -> None:
    if verdict.problems:
        print_problems(verdict.problems, source=verdict.source)
        return
    from sslgraph.drawing.words import amount

    facts = [plural(verdict.nodes or 0, "node")]
    if verdict.parameters is None:
        facts.append("sizes not checked")
    else:
        facts.append(f"{amount(verdict.parameters)} parameters")
    facts.append(f"checked in {verdict.seconds:.1f} s")
    text = f"{printable(verdict.source)}: nothing wrong: {', '.join(facts)}"
    console().print(text, style="green", soft_wrap=True)
    for pairs in verdict.pairs:
        click.echo(f"  {pairs.loss}: {pairs.amount}")
