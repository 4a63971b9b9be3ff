"""Axes of a port against the shape of a value: which size each name stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sslgraph.ports import Port


@dataclass(frozen=True)
class Mismatch:
    """An axis whose size on the wire is not what the declaration or another wire says."""

    axis: str
    expected: int
    got: int
    why: str


def bind_axes(
    port: Port,
    shape: tuple[int, ...],
    bound: dict[str, tuple[int, str]],
    settings: Mapping[str, Any],
) -> Mismatch | str | None:
    """Bind a port's axes to a shape on the wire.

    Args:
        port: The declared port.
        shape: The shape of the value, view axis included.
        bound: Axis name -> size and the port that bound it; extended in place.
        settings: Values of the lower case axes.

    Returns:
        None where all fits, a `Mismatch` for a wrong size, a text for a wrong number of axes.
    """
    axes = port.on_the_wire()
    if "..." in axes:
        before = axes.index("...")
        axes = axes[:before] + axes[before + 1 :]
        if len(shape) < len(axes):
            return f"at least {len(axes)} axes"
        shape = shape[:before] + shape[len(shape) - len(axes) + before :]
    if len(shape) != len(axes):
        return f"{len(axes)} axes"
    for axis, size in zip(axes, shape, strict=True):
        mismatch = _bind(axis, size, port.name, bound, settings)
        if mismatch:
            return mismatch
    return None


def _bind(
    axis: str,
    size: int,
    port: str,
    bound: dict[str, tuple[int, str]],
    settings: Mapping[str, Any],
) -> Mismatch | None:
    if axis.isdigit():
        return None if size == int(axis) else Mismatch(axis, int(axis), size, "by declaration")
    if axis[0].islower():
        wanted = settings[axis]
        return None if size == wanted else Mismatch(axis, wanted, size, f"setting {axis}")
    known, where = bound.setdefault(axis, (size, port))
    if axis == "V" and 1 in (known, size):  # one view broadcasts over many
        bound[axis] = (max(known, size), where if known >= size else port)
        return None
    return None if known == size else Mismatch(axis, known, size, f"from {where}")
