"""`sslgraph draw`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from sslgraph.cli.failures import fail
from sslgraph.cli.options import METHOD, changes, examples, own_nodes, read_graph, register
from sslgraph.cli.output import print_problems
from sslgraph.errors import errors_of
from sslgraph.files import write_bytes


@click.command(epilog=examples("sslgraph draw simclr -o simclr.png"))
@click.argument("source", type=METHOD, metavar="METHOD")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to: .svg, .png, .pdf, .dot or .mmd (Mermaid); NAME.svg here if left out.",
)
@changes
@own_nodes
@click.option("--sizes/--no-sizes", default=True, help="Write shapes on the wires, or don't.")
@click.pass_context
def draw(
    ctx: click.Context,
    source: str,
    output: Path | None,
    preset: str | None,
    settings: Sequence[str],
    node_files: Sequence[str],
    *,
    sizes: bool,
) -> None:
    """Draw a method as a picture.

    What is wrong in it is reported, too; mistakes in sizes still leave a picture.
    """
    graph = read_graph(source, preset, settings)
    register(node_files)
    path = output or Path(f"{graph.name}.svg")
    from sslgraph.checking import report
    from sslgraph.drawing import DrawingError, format_of, render
    from sslgraph.drawn import reported

    try:
        form = format_of(path)
        found = report(graph, sizes=sizes)
        write_bytes(path, render(reported(found), form))
    except DrawingError as failure:
        fail(str(failure))
    click.echo(f"wrote   {path}")
    print_problems(found.problems, stderr=True)
    ctx.exit(1 if errors_of(found.problems) else 0)
