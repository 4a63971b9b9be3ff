"""Inputs that take a list as it is, one input for each reference, and do not join its views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from sslgraph.ports import Declaration, In

_T = TypeVar("_T")
_SHARED_AXES = ("V", "B", "...")


def variadic(declaration: Declaration) -> In | None:
    """The input of a type that takes a list as it is, if it has one."""
    return next((port for port in declaration.inputs.values() if port.variadic != "no"), None)


def unjoined(declaration: Declaration, count: int) -> Declaration:
    """The declaration of a node whose list names so many references.

    Its input x becomes x0, x1 and so on, so that each has kind, axes and views of its own; x means
    the first of them.

    Args:
        declaration: A type with a variadic input, which is its only one.
        count: Length of the list, at least 1.
    """
    port = variadic(declaration)
    assert port is not None
    made = [_one(port, place) for place in range(count)]
    aliases = {**declaration.aliases, port.name: made[0].name}
    return replace(declaration, inputs={one.name: one for one in made}, aliases=aliases)


def split(
    declaration: Declaration, given: Mapping[str, tuple[_T, ...]]
) -> tuple[Declaration, dict[str, tuple[_T, ...]]]:
    """The declaration of a node with these wires, and the wires by its inputs.

    Args:
        declaration: Its type.
        given: References by input; '' is the bare form, which means the only required input.
    """
    port = variadic(declaration)
    name = "" if "" in given else port.name if port else ""
    listed = given.get(name, ())
    if port is None or not listed:
        return declaration, dict(given)
    wires = {f"{port.name}{place}": (reference,) for place, reference in enumerate(listed)}
    others = {key: references for key, references in given.items() if key != name}
    return unjoined(declaration, len(listed)), {**wires, **others}


def _one(port: In, place: int) -> In:
    axes = " ".join(
        f"{axis}{place}" if port.variadic == "apart" and axis not in _SHARED_AXES else axis
        for axis in port.axes
    )
    made = In("embedding", axes)
    made.kind, made.name = port.kind, f"{port.name}{place}"
    return made
