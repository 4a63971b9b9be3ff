"""`sslgraph new` and `sslgraph schema`: a file of one's own, and what helps an editor with it."""

from __future__ import annotations

import json
import os
import re
from importlib.resources import files
from pathlib import Path

import click

from sslgraph.canonical import canonical
from sslgraph.cli.failures import fail
from sslgraph.cli.options import METHOD, examples, own_nodes, read_graph, register
from sslgraph.command import command
from sslgraph.errors import GraphError, did_you_mean, errors_of
from sslgraph.files import write_text
from sslgraph.loading import shipped_methods
from sslgraph.scalars import written
from sslgraph.spec import Graph

SCHEMA_FILE = "sslgraph.schema.json"
_MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SUFFIXES = (".yaml", ".yml")


@click.command(
    epilog=examples("sslgraph new mine --from simclr", "sslgraph new mine --from simclr --extends")
)
@click.argument("name")
@click.option("--from", "source", type=METHOD, metavar="METHOD", required=True, help="The start.")
@click.option("--extends", "short", is_flag=True, help="Write only what differs, not a copy.")
def new(name: str, source: str, *, short: bool) -> None:
    """Start a method of your own from another one.

    Writes NAME.yaml, a copy with the comments, and beside it a JSON Schema by which an editor
    completes and checks node types and settings.
    """
    name = name.removesuffix(".yaml").removesuffix(".yml")
    _require_new(name, source)
    graph = read_graph(source, None, ())
    if errors_of(graph.problems):
        raise GraphError(graph.problems)
    path = Path(f"{name}.yaml")
    text = _extension(name, source, graph) if short else _copy(name, source, graph)
    write_text(path, _MODELINE + text)
    click.echo(f"wrote   {path}")
    if not Path(SCHEMA_FILE).exists():
        write_text(Path(SCHEMA_FILE), shipped_schema())
        click.echo(f"wrote   {SCHEMA_FILE}   (for editors)")
    run = f"{command()} run {path}" + (f" --preset {graph.presets[0]}" if graph.presets else "")
    for number, line in enumerate((f"{command()} check {path}", f"{command()} draw {path}", run)):
        click.echo(f"{'next' if number == 0 else '':8}{line}")


def _require_new(name: str, source: str) -> None:
    if not _NAME.fullmatch(name):
        raise click.BadParameter(
            f"'{name}' can't name a method: use letters, digits, '_' and '-'", param_hint="'NAME'"
        )
    methods = shipped_methods()
    if name in methods:
        fail(f"'{name}' is the name of a method that comes with sslgraph: take another name")
    if source not in methods and not source.endswith(_SUFFIXES):
        fail(f"no method '{source}': {did_you_mean(source, methods, show='methods')}")
    for suffix in _SUFFIXES:
        if Path(name + suffix).exists():
            fail(f"{name}{suffix} exists: take another name, or remove it")


def _copy(name: str, source: str, graph: Graph) -> str:
    """The text of the method, comments kept, under another name and title."""
    path = shipped_methods().get(source, Path(source))
    text = path.read_text(encoding="utf-8-sig")
    if re.search(r"(?m)^extends: *\S+\.ya?ml\b", text):
        text = graph.document.text  # a path that is meant from the other file's folder
    text = re.sub(r"(?m)\A(# yaml-language-server:.*\n)+", "", text)
    text = _with_line(text, "title", _title(graph))
    return _with_line(text, "name", name)


def _with_line(text: str, key: str, value: str) -> str:
    """The text with another value of a key at its top, comments and all the rest as they are."""
    line = f"{key}: {written(value)}\n"
    text, found = re.subn(rf"(?m)^{key}:.*\n(?:[ \t]+.*\n)*", lambda _: line, text, count=1)
    if not found:
        text = re.sub(r"(?m)^sslgraph:.*\n", lambda match: match[0] + line, text, count=1)
    return text


def _extension(name: str, source: str, graph: Graph) -> str:
    """A file that extends the method, with the places that are changed most as comments."""
    parent = source if source in shipped_methods() else os.path.relpath(source)
    data = graph.document.written
    nodes = {
        key: settings
        for key, node in data["nodes"].items()
        if (settings := {k: v for k, v in node.items() if k not in ("use", "in")})
    }
    settable = {"vars": data.get("vars"), "nodes": nodes, "train": data.get("train")}
    places = canonical({key: value for key, value in settable.items() if value})
    lines = [
        "sslgraph: 1",
        f"name: {name}",
        f"title: {written(_title(graph))}",
        f"extends: {written(parent)}",
        "",
        f"# Write here what shall differ; `sslgraph show {name}.yaml` prints the whole.",
        "# These are the values now. Uncomment what you change, with the keys above it.",
        "",
    ]
    return "\n".join(lines) + "\n" + "".join(f"# {line}\n" for line in places.splitlines())


def _title(graph: Graph) -> str:
    return f"A change of {graph.title or graph.name}"


@click.command(epilog=examples("sslgraph schema --nodes my_nodes.py -o sslgraph.schema.json"))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to; standard output if left out.",
)
@own_nodes
def schema(output: Path | None, node_files: tuple[str, ...]) -> None:
    """Write the JSON Schema by which editors complete and check."""
    from sslgraph.schema import json_schema

    register(node_files)
    text = json.dumps(json_schema(), indent=1) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    write_text(output, text)
    click.echo(f"wrote   {output}")


def shipped_schema() -> str:
    """The schema of the shipped node types, made beforehand since making it loads PyTorch."""
    return files("sslgraph").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
