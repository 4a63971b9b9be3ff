"""`sslgraph prove`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sslgraph.cli.failures import fail
from sslgraph.cli.options import METHOD, changes, examples, own_nodes, read_graph, register
from sslgraph.cli.output import console, print_json, printable

if TYPE_CHECKING:
    from rich.console import Console

    from sslgraph.proving import Result
    from sslgraph.spec import Graph

_SMALL = "tiny"
_WIDTH = 20
_STYLES = {"passed": "green", "failed": "bold red", "does_not_apply": "dim"}
_WORDS = {"passed": "passed", "failed": "failed", "does_not_apply": "does not apply"}


@click.command(epilog=examples("sslgraph prove byol", "sslgraph prove mine.yaml --property copies"))
@click.argument("source", type=METHOD, metavar="METHOD")
@changes
@own_nodes
@click.option(
    "--property",
    "properties",
    metavar="NAME",
    multiple=True,
    help="Prove this property only; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print results for other programs.")
@click.pass_context
def prove(
    ctx: click.Context,
    source: str,
    preset: str | None,
    settings: Sequence[str],
    node_files: Sequence[str],
    properties: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Prove that a method is wired as its graph says.

    The graph is run on small random views, in float64 on the CPU, under a minute: gradients behind
    every stop are exactly zero, copies follow their schedule, two processes give the gradients of
    one, and so on. A method's preset `tiny` is used where it has one, unless --preset names
    another.

    Prints one line a property, with the figure found, and exits with 1 if one fails.
    """
    register(node_files)
    graph = _small(source, preset, settings)
    from sslgraph.proving import ProofError, chosen
    from sslgraph.proving import prove as proof

    try:
        names = chosen(properties or None)
    except ValueError as wrong:
        raise click.UsageError(str(wrong), ctx) from None
    out = console()
    shown = None if as_json else _Lines(out)
    try:
        results = proof(
            graph,
            names,
            begun=shown.begun if shown else None,
            done=shown.done if shown else None,
        )
    except ProofError as refused:
        fail(str(refused))
    finally:
        if shown:
            shown.stop()
    if as_json:
        print_json([{"source": source, **result.as_data()} for result in results])
    else:
        click.echo(_sum(results, graph))
    ctx.exit(1 if any(result.status == "failed" for result in results) else 0)


class _Lines:
    """Prints results as they come; on a terminal also what is under way."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._status = out.status("building ...")
        if out.is_terminal:
            self._status.start()

    def begun(self, name: str) -> None:
        self._status.update(f"{name} ...")

    def done(self, result: Result) -> None:
        from rich.text import Text

        line = Text(f"{result.name:{_WIDTH}}")
        line.append(f"{_WORDS[result.status]:16}", _STYLES[result.status])
        line.append(printable(result.found))
        self._out.print(line, soft_wrap=True)
        if result.place:
            self._out.print(f"{'':{_WIDTH}}{'at':16}{printable(result.place)}", soft_wrap=True)

    def stop(self) -> None:
        self._status.stop()


def _small(source: str, preset: str | None, settings: Sequence[str]) -> Graph:
    """The graph, in its small preset where it has one and none is named."""
    graph = read_graph(source, preset, settings)
    if preset is None and _SMALL in graph.presets:
        graph = read_graph(source, _SMALL, settings)
    return graph


def _sum(results: Sequence[Result], graph: Graph) -> str:
    counts = Counter(_WORDS[result.status] for result in results)
    parts = [f"{counts[word]} {word}" for word in _WORDS.values() if counts[word]]
    seconds = sum(result.seconds for result in results)
    named = f"{graph.name}, preset {graph.preset}" if graph.preset else graph.name
    return printable(f"{named}: {', '.join(parts)}, in {seconds:.0f} s")
