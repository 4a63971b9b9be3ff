"""`sslgraph describe`: a page about a node type or a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sslgraph import registry
from sslgraph.cli.failures import fail
from sslgraph.cli.options import METHOD, changes, checked, examples, own_nodes, read_graph, register
from sslgraph.cli.output import PAGE, console, paragraph, table
from sslgraph.errors import did_you_mean
from sslgraph.loading import shipped_methods
from sslgraph.spec import Graph

if TYPE_CHECKING:
    from rich.console import Console

    from sslgraph.describe.nodes import Setting


@click.command(
    epilog=examples("sslgraph describe projector", "sslgraph describe simclr --preset tiny")
)
@click.argument("name", type=METHOD, metavar="NODE|METHOD")
@changes
@own_nodes
def describe(
    name: str,
    preset: str | None,
    settings: Sequence[str],
    node_files: Sequence[str],
) -> None:
    """Explain a node type or a method."""
    register(node_files)
    is_node, is_method = name in registry.names(), name in shipped_methods()
    if is_node:
        _print_node(name)
    if is_node and is_method:
        click.echo("\nThere is a method of this name, too:\n")
    if is_method or name.endswith((".yaml", ".yml")):
        _print_method(read_graph(name, preset, settings))
    elif not is_node:
        known = [*registry.names(), *shipped_methods()]
        near = did_you_mean(name, known, show="node types and methods")
        fail(f"no node type or method '{name}': {near}")


def _print_node(use: str) -> None:
    from sslgraph.describe.nodes import node_page

    page, out = node_page(use), console(piped_width=PAGE)
    paragraph(f"{page.use}: {page.summary}", on=out, style="bold")
    for text in page.text.split("\n\n") if page.text else ():
        click.echo()
        paragraph(" ".join(text.split()), on=out)
    for title, ports in (("Inputs", page.inputs), ("Outputs", page.outputs)):
        _heading(title, out)
        table([(p.name, p.kind, p.axes, p.note) for p in ports], on=out, indent=2)
    groups = {f"Each of {name}": settings for name, settings in page.groups.items()}
    for title, settings in {"Settings": page.settings, **groups}.items():
        if settings:
            _heading(title, out)
            rows = [(s.name, s.type, s.default, s.meaning) for s in settings]
            table(rows, ("", "value", "default", "meaning"), on=out, indent=2)
    for name, choices in page.choices.items():
        _heading(f"Entries of {name}, one of these each", out)
        entries = [(c.name, c.value, _with_keys(c.meaning, c.keys)) for c in choices]
        table(entries, ("", "value", "meaning"), on=out, indent=2)
    if page.facts:
        _heading("Also", out)
        table([(fact,) for fact in page.facts], on=out, indent=2)
    _heading("Sample", out)
    for line in page.sample.splitlines():
        click.echo(f"  {line}")
    click.echo(f"\nDefined in {page.family}.")


def _with_keys(meaning: str, keys: Sequence[Setting]) -> str:
    """The meaning of an entry, and the further keys that it may have."""
    words = [f"{key.name} ({key.meaning or key.type})" for key in keys]
    return meaning + (f" Also: {', '.join(words)}." if words else "")


def _print_method(graph: Graph) -> None:
    from sslgraph.describe.methods import node_lines, recipe, tree

    found, out = checked(graph), console(piped_width=PAGE)
    assert found.plan is not None  # the graph has no errors
    title = graph.title or graph.name
    paragraph(f"{title}, {graph.family}" if graph.family else title, on=out, style="bold")
    for text in (graph.summary, graph.paper):
        if text:
            paragraph(text, on=out)
    _heading("Graph", out)
    for line in tree(found.plan):
        click.echo(f"  {line}")
    _heading("Nodes", out)
    rows = [(n.name, n.use, n.outputs, n.parameters, n.notes) for n in node_lines(found)]
    table(rows, ("", "type", "gives", "parameters", ""), on=out, indent=2)
    if graph.outputs:
        _heading("Outputs", out)
        outputs = [(name, reference.text) for name, reference in graph.outputs.items()]
        table(outputs, on=out, indent=2)
    _heading("Training", out)
    table(recipe(graph), on=out, indent=2)
    if graph.presets:
        _heading("Presets", out)
        table([(name,) for name in graph.presets], on=out, indent=2)


def _heading(text: str, out: Console) -> None:
    click.echo()
    paragraph(text, on=out, style="bold")
