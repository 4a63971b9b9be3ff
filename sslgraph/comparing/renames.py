"""Which nodes of two graphs are the same ones."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from sslgraph.checks.references import DATA
from sslgraph.comparing.parts import Part
from sslgraph.comparing.values import key

Parts = Mapping[str, Part]


def pairs(a: Parts, b: Parts) -> dict[str, str]:
    """Names of the second graph by those of the first, for the nodes that both have.

    Nodes of one name are the same. Of the rest, two are the same one under another name if their
    type, settings and wires are equal once the pairs so far are given their new names; where
    several are equal to each other, the first one is paired with the first one, and so on. This is
    repeated until it finds nothing, so that a renamed node may read from a renamed node.

    Args:
        a: Nodes of the first graph.
        b: Nodes of the second graph.
    """
    names = {name: name for name in a if name in b}
    while True:
        old = _by_content((a[name] for name in a if name not in names), names)
        there = set(names.values())
        new = _by_content((b[name] for name in b if name not in there), {n: n for n in there})
        found = [
            pair
            for content, before in old.items()
            for pair in zip(before, new.get(content, ()), strict=False)
        ]
        if not found:
            return names
        names |= dict(found)


def _by_content(parts: Iterable[Part], names: Mapping[str, str]) -> dict[Hashable, list[str]]:
    """Names of nodes by what is equal for equal nodes; those that read unpaired ones are left."""
    found: dict[Hashable, list[str]] = {}
    for part in parts:
        read = {source.node for wires in part.inputs.values() for source in wires}
        read |= {path.partition(".")[0] for path in part.of}
        if all(node in names or node == DATA for node in read):
            content = (
                part.use,
                part.repeats(names),
                frozenset(part.feeds(names).items()),
                frozenset((name, key(side.meaning)) for name, side in part.settings.items()),
            )
            found.setdefault(content, []).append(part.name)
    return found
