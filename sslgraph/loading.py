"""From a name, a file or a mapping to a `Graph`.

Broken text (not YAML, too large, a key twice) gives no graph. Every other mistake is kept in
`Graph.problems`, so that the checks that follow can report theirs in the same round.

| code | what is wrong |
|---|---|
| E001 | no such method or file, or one that can't be read |
| E004 | nothing in it |
| E005 | the top is not a mapping |
| E020 | `extends` something that is not there |
| E021 | files that extend each other in a circle |
| E022 | no such preset |
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path

from sslgraph.building import build
from sslgraph.errors import (
    GraphError,
    Problem,
    Span,
    did_you_mean,
    errors_of,
    in_file_order,
)
from sslgraph.limits import MOST_BYTES, MOST_PARENTS, Place, decoded, shown
from sslgraph.merge import Gone, overlay
from sslgraph.overrides import override
from sslgraph.reading import parse
from sslgraph.source import Document
from sslgraph.spec import Graph
from sslgraph.tree import Tree, from_python, kind, parts, plain, too_much
from sslgraph.variables import substitute

Source = str | PathLike[str] | Mapping[str, object]

_SUFFIXES = (".yaml", ".yml")
_OF_ONE_FILE = ("name", "title", "paper", "summary")
_MOST_NEIGHBOURS = 1000
_LONGEST_NAME = 200
_START = "begin with 'sslgraph: 1', or copy a method: sslgraph new NAME --from simclr"


def load(
    source: Source,
    *,
    preset: str | None = None,
    set: Mapping[str, object] | Sequence[str] | None = None,
) -> Graph:
    """The graph of a method.

    Args:
        source: Name of a shipped method, path of a YAML file, or the same as nested data.
        preset: Name of one of its presets.
        set: Values to lay over it, by path: `{"nodes.loss.temperature": 0.2}`.

    Raises:
        GraphError: Something in it is wrong; the error has every problem that reading found.
    """
    graph, problems = read(source, preset=preset, set=set or ())
    if graph is None or errors_of(problems):
        raise GraphError(tuple(problems))
    return graph


def read(
    source: Source,
    *,
    preset: str | None = None,
    set: Mapping[str, object] | Sequence[str] = (),
) -> tuple[Graph | None, list[Problem]]:
    """The graph of a method as far as it is sound, and what is wrong; takes what `load` takes."""
    layers, problems = _layers(source)
    if layers is None:
        return None, in_file_order(problems)
    gone = Gone()
    top = merged = _merged([layer.tree for layer in layers], problems, gone)
    presets = tuple(top.mapping["presets"].mapping) if "presets" in top.mapping else ()
    if preset is not None:
        top, preset = _with_preset(top, preset, problems, gone)
    top = override(top, set, problems)
    resolved, found = substitute(top, merged)
    limit = too_much(resolved)
    if limit:
        return None, [*problems, limit]
    document = Document(
        data=_mapping(resolved),
        origins={path: tree.origin for path, tree in parts(resolved)},
        name=layers[0].name,
        written=_mapping(top),
    )
    stem = Path(layers[0].name).stem if layers[0].path else "graph"
    graph = build(document, problems + found, name=stem, presets=presets, preset=preset)
    return graph, list(graph.problems)


def shipped_methods() -> dict[str, Path]:
    """The files of the methods that come with the package, by name; hybrids stand last."""
    here = Path(__file__).parent
    folder = here / "_methods"  # in the wheel; in a checkout it lies beside the package
    if not folder.is_dir():
        folder = here.parent / "methods"
    files = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("hybrids/*.yaml"))]
    return {path.stem: path for path in files}


@dataclass(frozen=True)
class _Layer:
    """One file of a chain of `extends`, or the mapping that it begins with."""

    tree: Tree
    name: str
    path: Path | None


def _mapping(tree: Tree) -> dict[str, object]:
    return {key: plain(child) for key, child in tree.mapping.items()}


def _layers(source: Source) -> tuple[list[_Layer] | None, list[Problem]]:
    """The source and what it extends, itself first."""
    first, problems = _first(source)
    layers: list[_Layer] = []
    layer = first
    while layer is not None:
        layers.append(layer)
        extends = layer.tree.mapping.get("extends")
        if extends is None or extends.value is None:
            return layers, problems
        layer = _parent(layers, extends, problems)
    return None, problems


def _first(source: Source) -> tuple[_Layer | None, list[Problem]]:
    problems: list[Problem] = []
    if isinstance(source, Mapping):
        tree, problems = from_python(source, "<dict>")
        return (None if problems else _Layer(tree, "<dict>", None)), problems
    shipped = shipped_methods()
    path = Path(source)
    name = shown(os.fspath(source))[:_LONGEST_NAME]
    if isinstance(source, str) and source in shipped and not os.path.isfile(source):
        path = shipped[source]
        name = _shown(path)
    return _file(path, name, Span(name), problems, "E001"), problems


def _parent(layers: list[_Layer], extends: Tree, problems: list[Problem]) -> _Layer | None:
    child, span, value = layers[-1], extends.origin.value, extends.value
    if not isinstance(value, str):
        expected = "the name of a method, or a path"
        problem = Problem("E020", "'extends' is not text", span, expected=expected, got=kind(value))
        problems.append(problem)
        return None
    shipped = shipped_methods()
    if value in shipped:
        path, name = shipped[value], _shown(shipped[value])
    elif value.endswith(_SUFFIXES) and not os.path.isabs(value):
        folder = child.path.parent if child.path else Path()
        name = os.path.normpath(os.path.join(os.path.dirname(child.name), value))
        path = folder / value
    else:
        expected = "the name of a method, or the path of a .yaml file from this file's folder"
        help = did_you_mean(value, shipped, show="methods")
        problem = Problem("E020", f"no method '{value[:80]}'", span, expected=expected, help=help)
        problems.append(problem)
        return None
    visited = [layer.path.resolve() for layer in layers if layer.path]
    if path.resolve() in visited or len(layers) > MOST_PARENTS:
        way = " -> ".join([*(layer.name for layer in layers), name])
        title = "files that extend each other in a circle"
        if path.resolve() not in visited:
            title = f"more than {MOST_PARENTS} files that extend each other"
        problems.append(Problem("E021", title, span, got=way))
        return None
    return _file(path, name, span, problems, "E020")


def _file(path: Path, name: str, span: Span, problems: list[Problem], code: str) -> _Layer | None:
    """A file as a layer, None with the reason among the problems."""
    raw = _bytes(path, name, span, code)
    text = raw if isinstance(raw, Problem) else decoded(raw, name)
    if isinstance(text, Problem):
        problems.append(text)
        return None
    tree, found = parse(text, Place(name))
    problems += found
    if found:
        return None
    if tree is None or tree.value is None:
        problems.append(Problem("E004", "there is nothing in it", Span(name), help=_START))
        return None
    if not isinstance(tree.value, dict):
        title = "a graph is a mapping of keys to values"
        where = tree.origin.value
        problems.append(Problem("E005", title, where, got=kind(tree.value), help=_START))
        return None
    return _Layer(tree, name, path)


def _bytes(path: Path, name: str, span: Span, code: str) -> bytes | Problem:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Problem(code, "a folder, not a file", span, help=_near(path))
        if not stat.S_ISREG(status.st_mode):
            return Problem(code, "not a regular file", span)
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        if Path(name).suffix in _SUFFIXES or os.path.dirname(name):
            return Problem(code, f"no file '{name}'", span, help=_near(path))
        return Problem(code, f"no method or file '{name}'", span, help=_near(path))
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        return Problem(code, f"can't read '{name[:80]}': {reason}", span)


def _near(path: Path) -> str:
    """What the user may have meant: a method, or a file in the same folder."""
    folder = path if path.is_dir() else path.parent
    try:
        found = [entry.name for entry in islice(os.scandir(folder), _MOST_NEIGHBOURS)]
        names = [name for name in found if not name.startswith(".")]
    except OSError:
        names = []
    files = [str(folder / name) for name in names if name.endswith(_SUFFIXES)]
    known = [*sorted(files), *shipped_methods()]
    return did_you_mean(str(path), known, show="files and methods", in_order=True)


def _shown(path: Path) -> str:
    """A path as a reader can open it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _merged(trees: Sequence[Tree], problems: list[Problem], gone: Gone) -> Tree:
    """Parents first; what names a method (its title, its paper) is not inherited."""
    top: Tree | None = None
    for tree in reversed(trees):
        over = Tree({k: v for k, v in tree.mapping.items() if k != "extends"}, tree.origin)
        if top is not None:
            kept = {k: v for k, v in top.mapping.items() if k not in _OF_ONE_FILE}
            top = Tree(kept, tree.origin)
        top = overlay(top, over, problems, gone=gone)
    assert top is not None  # there is at least the file itself
    return top


def _with_preset(
    top: Tree, name: str, problems: list[Problem], gone: Gone
) -> tuple[Tree, str | None]:
    presets = top.mapping["presets"].mapping if "presets" in top.mapping else {}
    if name not in presets:
        span = Span("--preset", 0, 1, len(name) + 1, name)
        help = did_you_mean(name, presets, show="presets")
        problems.append(Problem("E022", f"no preset '{name[:80]}'", span, help=help))
        return top, None
    over = presets[name]
    if not isinstance(over.value, dict):
        title = f"the preset '{name}' is not a mapping"
        problems.append(Problem("E032", title, over.origin.value, got=kind(over.value)))
        return top, None
    rest = Tree({k: v for k, v in top.mapping.items() if k != "presets"}, top.origin)
    return overlay(rest, over, problems, gone=gone), name
