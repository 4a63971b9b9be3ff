"""Where the size of an axis was decided: the setting of a node, found back along the wires."""

from __future__ import annotations

from collections.abc import Mapping

from sslgraph.checks.references import DATA, Inputs, Port
from sslgraph.ports import Declaration


def size_setting(
    declarations: Mapping[str, Declaration],
    inputs: Mapping[str, Inputs],
    source: Port,
    place: int,
) -> str:
    """The setting that an axis of an output comes from, such as ``scores.count``, or ''.

    Args:
        declarations: Of each node.
        inputs: For each node the wires of each plugged input.
        source: The output.
        place: The axis, counted from the last one, which is 1.
    """
    node, port = source
    while node != DATA:
        axis = _axis(declarations[node].outputs[port].axes, place)
        if axis[:1].islower():
            return f"{node}.{axis}"
        found = _input_with(declarations[node], inputs[node], axis)
        if not found:
            return ""
        (node, port), place = found
    return ""


def _input_with(declared: Declaration, plugged: Inputs, axis: str) -> tuple[Port, int] | None:
    """What feeds the first plugged input that has an axis of this name, and the axis' place."""
    for name, wires in plugged.items():
        axes = declared.inputs[name].axes
        if axis and axis in axes:
            return wires[0].source, len(axes) - axes.index(axis)
    return None


def _axis(axes: tuple[str, ...], place: int) -> str:
    """The name of an axis counted from the end; '' where open axes stand in between."""
    behind = axes[len(axes) - place :] if place <= len(axes) else ()
    return "" if not behind or "..." in behind or behind[0].isdigit() else behind[0]
