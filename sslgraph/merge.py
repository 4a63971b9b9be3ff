"""Laying one graph over another: parent, file, preset, single values.

Mappings merge, all else replaces. `key: null` deletes. A node whose `use` changes is replaced
whole, and so is `in`. Every value keeps the place that it was written at.

| code | what is wrong |
|---|---|
| W021 | `null` deletes, and there is nothing to delete |
"""

from __future__ import annotations

from sslgraph.errors import Problem
from sslgraph.source import Path
from sslgraph.tree import Tree

_DEEPEST_PRESET_NAME = 2

Gone = set[Path]
"""What was deleted so far, by path."""


def overlay(
    base: Tree | None,
    over: Tree,
    problems: list[Problem],
    path: Path = (),
    gone: Gone | None = None,
) -> Tree:
    """The base with `over` on top.

    Args:
        base: What is there, None if nothing is.
        over: What is laid over it.
        problems: Gets a warning for each `null` that deletes nothing.
        path: Where both stand in the graph.
        gone: What earlier layers deleted, by path, extended in place: to delete that once more is
            no reason for a warning, nor is a preset's `null` that deleted its parent's value.
    """
    gone = Gone() if gone is None else gone
    if not isinstance(over.value, dict):
        return over
    kept = {} if base is None or _replaces(base, over, path) else base.mapping
    entries = dict(kept)
    for key, child in over.value.items():
        inner = (*path, key)
        if child.value is None and not _keeps_null(inner):
            if key not in entries and inner not in gone:
                problems.append(_nothing(key, child))
            entries.pop(key, None)
            gone.add(inner)
        else:
            below = entries.get(key)
            if child.value is None and below is not None and below.value is not None:
                gone.add(inner[_DEEPEST_PRESET_NAME:])
            entries[key] = overlay(below, child, problems, inner, gone)
    return Tree(entries, over.origin if base is None or not kept else base.origin)


def _replaces(base: Tree, over: Tree, path: Path) -> bool:
    """Whether nothing of the base is left."""
    if not isinstance(base.value, dict):
        return True
    if path[:1] != ("nodes",):
        return False
    if len(path) == 2:
        used, uses = base.mapping.get("use"), over.mapping.get("use")
        return uses is not None and (used is None or uses.value != used.value)
    return len(path) == 3 and path[2] == "in"


def _keeps_null(path: Path) -> bool:
    """A preset keeps its `null`s: they delete where it is laid over the graph."""
    return path[:1] == ("presets",) and len(path) > _DEEPEST_PRESET_NAME


def _nothing(key: str, child: Tree) -> Problem:
    help = "write a value, or remove the key"
    if ":" in key:
        help = "write a space after ':'"
    return Problem(
        "W021",
        f"'{key[:80]}' has no value, and there is nothing that 'null' could delete",
        child.origin.key or child.origin.value,
        help=help,
        severity="warning",
    )
