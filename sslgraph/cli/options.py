"""Arguments that several commands share, and how they become a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from sslgraph.cli.output import print_problems
from sslgraph.errors import GraphError, errors_of
from sslgraph.loading import read, shipped_methods
from sslgraph.registry import load_file
from sslgraph.spec import Graph

if TYPE_CHECKING:
    from sslgraph.checking import Report

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FROM_THE_COMMAND_LINE = ("--preset", "--set")


class Method(click.ParamType[str]):
    """Name of a shipped method, or a path; a shell completes both."""

    name = "method"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Methods that begin so; the shell adds files."""
        names = [CompletionItem(name) for name in shipped_methods() if name.startswith(incomplete)]
        return [*names, CompletionItem(incomplete, type="file")]


METHOD = Method()


def examples(*commands: str) -> str:
    """The end of a help text: commands as a user types them."""
    head = "Example:" if len(commands) == 1 else "Examples:"
    return "\n".join(["\b", head, *(f"  {command}" for command in commands)])


def changes(function: _Function) -> _Function:
    """Add `--preset` and `--set`."""
    settings = click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change a value, such as nodes.loss.temperature=0.2; may be repeated.",
    )
    preset = click.option("--preset", metavar="NAME", help="Use one of the file's presets.")
    return preset(settings(function))


def own_nodes(function: _Function) -> _Function:
    """Add `--nodes`."""
    return click.option(
        "--nodes",
        "node_files",
        metavar="FILE.py",
        multiple=True,
        help="Python file with node types of your own; may be repeated.",
    )(function)


def register(node_files: Sequence[str]) -> None:
    """Run the user's files of node types.

    Raises:
        NodeFileError: A file is missing, fails, or declares no type.
    """
    for path in node_files:
        load_file(path)


def read_graph(source: str, preset: str | None, settings: Sequence[str]) -> Graph:
    """The graph that a user named, with what reading found wrong in it as `graph.problems`.

    Raises:
        GraphError: There is no graph in it, or `--preset` or `--set` is wrong, so that any graph
            would be another one than the user means.
    """
    graph, problems = read(source, preset=preset, set=settings)
    wrong = errors_of(problems)
    if graph is None or any(problem.span.file in _FROM_THE_COMMAND_LINE for problem in wrong):
        raise GraphError(tuple(problems))
    return graph


def checked(graph: Graph, *, sizes: bool = True) -> Report:
    """What the checks found in a graph without errors; warnings are printed.

    Raises:
        GraphError: There are errors.
    """
    from sslgraph.checking import report

    found = report(graph, sizes=sizes)
    if errors_of(found.problems):
        raise GraphError(tuple(found.problems))
    print_problems(found.problems, stderr=True)
    return found
