"""`sslgraph list`, `show` and `nodes`: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from sslgraph import registry
from sslgraph.cli.failures import fail
from sslgraph.cli.options import METHOD, changes, checked, examples, own_nodes, read_graph, register
from sslgraph.cli.output import console, print_problems, table
from sslgraph.errors import did_you_mean, errors_of
from sslgraph.loading import read, shipped_methods

if TYPE_CHECKING:
    from sslgraph.checking import Report


@click.command("list", epilog=examples("sslgraph list"))
def list_methods() -> None:
    """List the methods that come with sslgraph."""
    rows = []
    for name, path in shipped_methods().items():
        graph, _ = read(str(path))
        if graph is not None:
            rows.append((name, graph.title, graph.family, ", ".join(graph.presets), graph.summary))
    table(rows, ("name", "title", "family", "presets", "summary"), on=console())


@click.command(epilog=examples("sslgraph show simclr --preset tiny --set vars.dim=32"))
@click.argument("source", type=METHOD, metavar="METHOD")
@changes
@own_nodes
@click.option("--plan", "view", flag_value="plan", help="The nodes in their order, with shapes.")
@click.option("--code", "view", flag_value="code", help="The forward pass as Python.")
@click.pass_context
def show(
    ctx: click.Context,
    source: str,
    preset: str | None,
    settings: Sequence[str],
    node_files: Sequence[str],
    view: str | None,
) -> None:
    """Print a method as it is after `extends`, --preset and --set."""
    graph = read_graph(source, preset, settings)
    if view is None:
        click.echo(graph.document.text, nl=False)
        print_problems(graph.problems, stderr=True)
        ctx.exit(1 if errors_of(graph.problems) else 0)
    register(node_files)
    if view == "plan":
        _print_plan(checked(graph))
    else:
        _print_code(checked(graph, sizes=False))


def _finds(pattern: str, row: Sequence[str]) -> bool:
    """Whether a word is anywhere in the row, or a pattern fits its name."""
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(row[0], pattern)
    return pattern.lower() in "\n".join(row).lower()


def _print_plan(found: Report) -> None:
    from sslgraph.describe.methods import node_lines

    heads = ("node", "type", "from", "gives", "parameters", "")
    rows = [
        (line.name, line.use, line.inputs, line.outputs, line.parameters, line.notes)
        for line in node_lines(found)
    ]
    table(rows, heads, on=console())
    _print_pairs(found)


def _print_pairs(found: Report) -> None:
    """What each loss compares, by the crops that the views came from."""
    from sslgraph.describe.pairs import loss_pairs

    assert found.plan is not None  # the graph has no errors
    rows = []
    for loss in loss_pairs(found.plan):
        lines = [f"{first} -> {second}" for first, second in loss.groups]
        start = [(loss.loss, loss.amount, " -> ".join(loss.inputs))]
        rows += [*start, *(("", "", line) for line in lines)]
    if rows:
        click.echo()
        table(rows, ("loss", "compares", "views"), on=console())


def _print_code(found: Report) -> None:
    from sslgraph.emit import emit

    assert found.plan is not None  # the graph has no errors
    fetch = [found.plan.wire(name) for name in found.plan.losses]
    click.echo(emit(found.plan, (), fetch, writing=True).code, nl=False)


@click.command(epilog=examples("sslgraph nodes loss", "sslgraph nodes 'p*'"))
@click.argument("pattern", default="")
@own_nodes
def nodes(pattern: str, node_files: Sequence[str]) -> None:
    """List node types, those that PATTERN finds if one is given.

    PATTERN is a word in the name, family or summary, or a name with * and ?.
    """
    from sslgraph.describe.nodes import entries

    register(node_files)
    found = [(entry.use, entry.family, entry.summary) for entry in entries()]
    rows = [row for row in found if _finds(pattern, row)]
    if not rows:
        near = did_you_mean(pattern, registry.names(), show="node types")
        fail(f"'{pattern}' finds no node type; {near}")
    table(rows, ("type", "family", "summary"), on=console())
