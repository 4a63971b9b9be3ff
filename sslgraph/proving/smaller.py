"""What makes a graph small enough to be proved, as it would be typed behind the command.

Only what was tried is named: a preset of its file, or a lower value of one of its variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from sslgraph.errors import errors_of
from sslgraph.loading import read
from sslgraph.overrides import FILE
from sslgraph.spec import Graph

_TRIES = 6  # values of one variable; each builds the graph on the meta device
_WORTHWHILE = 0.9  # share of the work that remains; a variable that saves less is left alone


def remedies(graph: Graph, work: Callable[[Graph], float], most: float) -> list[str]:
    """Arguments such as ``--preset tiny`` with which a graph takes at most so much work.

    Args:
        graph: A graph that takes more.
        work: What a graph takes; infinite for one that is wrong.
        most: What it may take.

    Returns:
        Every preset that does, but for the one in force; where none does, for each variable the
        first value that does.
    """
    presets = [
        f"--preset {name}"
        for name in graph.presets
        if name != graph.preset and work_of(graph, work, name) <= most
    ]
    return presets or list(_lower_values(graph, work, most))


def work_of(
    graph: Graph, work: Callable[[Graph], float], preset: str | None, *settings: str
) -> float:
    """What a graph takes in another preset, or with further settings; infinite where it is wrong.

    Args:
        graph: The graph.
        work: What a graph takes.
        preset: The preset.
        *settings: Texts ``path=value``, beside those that the graph was read with.
    """
    name, known = graph.document.name, _settings(graph)
    # what was given as data has its presets only where none is in force
    source = name if os.path.isfile(name) else graph.document.written
    if preset == graph.preset and source is not name:
        preset = None
    other, problems = read(source, preset=preset, set=[*known, *settings])
    if other is None or errors_of(problems):
        return float("inf")
    return work(other)


def _settings(graph: Graph) -> list[str]:
    """The texts of the single settings that were laid over a graph."""
    spans = (origin.value for origin in graph.document.origins.values())
    return list(dict.fromkeys(span.text for span in spans if span.file == FILE))


def _lower_values(graph: Graph, work: Callable[[Graph], float], most: float) -> Iterator[str]:
    variables = graph.document.written.get("vars")
    now = work(graph)
    for name, value in variables.items() if isinstance(variables, Mapping) else ():
        if not isinstance(value, int) or isinstance(value, bool) or value < 2:
            continue
        before = now
        for lower in _powers_below(value):
            setting = f"vars.{name}={lower}"
            after = work_of(graph, work, graph.preset, setting)
            if after <= most:
                yield f"--set {setting}"
            if after <= most or before * _WORTHWHILE < after < float("inf"):
                break
            before = min(before, after)


def _powers_below(value: int) -> list[int]:
    """The next lower powers of two, which patches and heads go into."""
    highest = (value - 1).bit_length() - 1
    return [1 << place for place in range(highest, max(highest - _TRIES, -1), -1)]
