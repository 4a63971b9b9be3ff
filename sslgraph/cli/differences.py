"""`sslgraph diff`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sslgraph.cli.failures import fail
from sslgraph.cli.options import METHOD, changes, examples, own_nodes, read_graph, register
from sslgraph.cli.output import console, print_json, print_problems, printable
from sslgraph.errors import GraphError, Problem, errors_of
from sslgraph.files import WriteError, write_bytes
from sslgraph.registry import NodeFileError
from sslgraph.spec import Graph

if TYPE_CHECKING:
    from sslgraph.comparing import Difference

_Function = TypeVar("_Function", bound=Callable[..., Any])

DIFFERENT = 1
TROUBLE = 2

_COLORS = {"": "bold", "+": "green", "-": "red", "~": "yellow"}


def _each_side(function: _Function) -> _Function:
    """Add `--preset-a`, `--set-a` and the same for B."""
    for side in ("b", "a"):
        name = side.upper()
        value = click.option(
            f"--set-{side}", metavar="KEY=VALUE", multiple=True, help=f"Change a value of {name}."
        )
        preset = click.option(f"--preset-{side}", metavar="NAME", help=f"Use a preset of {name}.")
        function = preset(value(function))
    return function


@click.command(
    epilog=examples(
        "sslgraph diff simclr mine.yaml",
        "sslgraph diff simclr simclr --preset-b tiny",
        "sslgraph diff simclr mine.yaml -o diff.svg",
    )
)
@click.argument("a", type=METHOD, metavar="A")
@click.argument("b", type=METHOD, metavar="B")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw both in one picture, too: .svg, .png, .pdf, .dot or .mmd (Mermaid).",
)
@changes
@_each_side
@own_nodes
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.pass_context
def diff(
    ctx: click.Context,
    a: str,
    b: str,
    output: Path | None,
    preset: str | None,
    settings: Sequence[str],
    preset_a: str | None,
    preset_b: str | None,
    set_a: Sequence[str],
    set_b: Sequence[str],
    node_files: Sequence[str],
    form: str,
) -> None:
    """Compare two methods: nodes added, removed and renamed, wires moved, settings changed.

    A and B are compared after `extends`, presets, --set and variables; a setting that is left out
    has its default. Titles, notes and the order of keys are no difference.

    Exits with 0 if they are equal, with 1 if they differ, with 2 if they can't be compared, as
    diff does.
    """
    with _trouble():
        register(node_files)
        wanted = (
            (a, preset_a or preset, (*settings, *set_a)),
            (b, preset_b or preset, (*settings, *set_b)),
        )
        graphs = _sound(wanted)
        from sslgraph.comparing import diff as compare

        names = [_called(*each) for each in wanted]
        found = compare(*graphs, names=(names[0], names[1]))
        if output is not None:
            _draw(found, graphs, output)
    if form == "json":
        print_json(found.as_data())
    else:
        _print(found)
    ctx.exit(0 if found.equal else DIFFERENT)


@contextmanager
def _trouble() -> Iterator[None]:
    """Exit with 2 for what goes wrong in a known way: 1 says that the methods differ."""
    try:
        yield
    except GraphError as failure:
        print_problems(failure.problems, stderr=True)
        raise SystemExit(TROUBLE) from None
    except (NodeFileError, WriteError) as failure:
        fail(str(failure), TROUBLE)


def _sound(wanted: Sequence[tuple[str, str | None, Sequence[str]]]) -> tuple[Graph, Graph]:
    """Both graphs.

    Raises:
        GraphError: One of them can't be read without errors; has the problems of both.
    """
    graphs: list[Graph] = []
    problems: list[Problem] = []
    for source, preset, settings in wanted:
        try:
            graph = read_graph(source, preset, settings)
        except GraphError as failure:
            problems += failure.problems
            continue
        problems += errors_of(graph.problems)
        graphs.append(graph)
    if problems:
        raise GraphError(tuple(dict.fromkeys(problems)))
    return graphs[0], graphs[1]


def _called(source: str, preset: str | None, settings: Sequence[str]) -> str:
    """A method as it was asked for: `simclr --preset tiny`."""
    words = [source, *(("--preset", preset) if preset else ())]
    return " ".join((*words, *(word for text in settings for word in ("--set", text))))


def _draw(found: Difference, graphs: tuple[Graph, Graph], path: Path) -> None:
    from sslgraph.drawing import DrawingError, format_of, render
    from sslgraph.drawn import picture_of_difference

    try:
        form = format_of(path)
        write_bytes(path, render(picture_of_difference(found, *graphs), form))
    except DrawingError as failure:
        fail(str(failure), TROUBLE)
    click.echo(f"wrote   {path}", err=True)


def _print(found: Difference) -> None:
    from rich.text import Text

    from sslgraph.comparing.text import summary

    if found.literal:
        click.echo("note: compared as written, since one has errors: see sslgraph check", err=True)
    out = console()
    for line in summary(found):
        text = Text(printable(str(line)))
        start = len(text.plain) - len(text.plain.lstrip())
        end = start + len(line.mark) + 1 + len(printable(line.name)) if line.mark else len(text)
        text.stylize(_COLORS[line.mark], start, end)
        out.print(text, soft_wrap=True)
