"""Single values laid over a graph: `--set nodes.loss.temperature=0.2`.

| code | what is wrong |
|---|---|
| E023 | not `path=value`, or a value that is no YAML |
| E024 | a path that leads nowhere |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sslgraph.canonical import ORDER, flow
from sslgraph.errors import Problem, Span, did_you_mean
from sslgraph.limits import MOST_DEPTH, Place
from sslgraph.merge import overlay
from sslgraph.reading import parse
from sslgraph.source import Origin
from sslgraph.tree import Tree, from_python, plain

FILE = "--set"
"""What stands for the file of a setting in its spans, whose line is the whole setting."""

_SETTABLE = [key for key in ORDER if key not in ("sslgraph", "presets")]
_EXAMPLE = "such as --set nodes.loss.temperature=0.2"


def override(
    top: Tree, settings: Mapping[str, object] | Sequence[str], problems: list[Problem]
) -> Tree:
    """The graph with each setting laid over it, in order.

    Args:
        top: The merged graph.
        settings: Texts `path=value`, or values by path.
        problems: Gets what is wrong; such a setting is left out.
    """
    texts = _as_texts(settings, problems) if isinstance(settings, Mapping) else settings
    for text in [texts] if isinstance(texts, str) else texts:
        top = _override(top, text, problems)
    return top


def _as_texts(settings: Mapping[str, object], problems: list[Problem]) -> list[str]:
    texts = []
    for path, value in settings.items():
        tree, found = from_python({"value": value}, FILE)
        problems += found
        if not found:
            texts.append(f"{path}={flow(plain(tree.mapping['value']))}")
    return texts


def _override(top: Tree, text: str, problems: list[Problem]) -> Tree:
    path, equals, value_text = text.partition("=")
    whole = Span(FILE, 0, 1, len(text) + 1, text)
    keys = path.strip().split(".")
    if not equals or not all(keys) or len(keys) > MOST_DEPTH:
        problems.append(Problem("E023", "not 'path=value'", whole, expected=_EXAMPLE))
        return top
    value, found = parse(value_text, Place(FILE, f"{path}=", numbered=False))
    if value is None:
        missing = Problem("E023", "no value after '='", whole, help="null deletes a key")
        problems += found or [missing]
        return top
    steps = _Steps(text, keys)
    problem = _lost(top, steps, value)
    if problem:
        problems.append(problem)
        return top
    return overlay(top, _nested(top, steps, value, 0), problems)


class _Steps:
    """The keys of a path with the place of each."""

    def __init__(self, text: str, keys: list[str]) -> None:
        self.keys = keys
        self.spans = []
        column = 1 + len(text) - len(text.lstrip())
        for key in keys:
            self.spans.append(Span(FILE, 0, column, column + len(key), text))
            column += len(key) + 1


def _nested(base: Tree | None, steps: _Steps, value: Tree, depth: int) -> Tree:
    """What to lay over `base` so that the value lands at the end of the path.

    A list on the way is written anew with one item changed, since lists don't merge.
    """
    key = steps.spans[depth - 1] if depth else None
    if depth == len(steps.keys):
        return value.under(key)
    name = steps.keys[depth]
    origin = Origin(key, steps.spans[depth])
    if base is not None and isinstance(base.value, list):
        place = int(name)
        inner = _nested(base.value[place], steps, value, depth + 1)
        item = overlay(base.value[place], inner, [], ("", ""))
        return Tree([*base.value[:place], item, *base.value[place + 1 :]], origin)
    child = base.mapping.get(name) if base is not None else None
    return Tree({name: _nested(child, steps, value, depth + 1)}, origin)


def _lost(top: Tree, steps: _Steps, value: Tree) -> Problem | None:
    """The problem that a path names something that is not there."""
    first, *rest = steps.keys
    if first not in _SETTABLE:
        return _nowhere(steps, 0, "key", _SETTABLE)
    known = top.mapping[first].mapping if first in top.mapping else {}
    added = len(rest) == 1 and isinstance(value.value, dict)
    if first in ("nodes", "vars") and rest and rest[0] not in known and not added:
        return _nowhere(steps, 1, "node" if first == "nodes" else "variable", list(known))
    at: Tree | None = top
    for depth, name in enumerate(steps.keys):
        if at is None:
            break
        if isinstance(at.value, list):
            places = [str(place) for place in range(len(at.value))]
            if name not in places:
                return _nowhere(steps, depth, "item", places)
            at = at.value[int(name)]
        else:
            at = at.mapping.get(name)
    return None


def _nowhere(steps: _Steps, depth: int, noun: str, known: list[str]) -> Problem:
    return Problem(
        "E024",
        f"no {noun} '{steps.keys[depth]}'",
        steps.spans[depth],
        help=did_you_mean(steps.keys[depth], known, show=f"{noun}s"),
    )
