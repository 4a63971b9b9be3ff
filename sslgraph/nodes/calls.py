"""How a call meets the view axis: lifting, evaluation form, and what is gathered across ranks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslgraph.nodes.ranks import gather, world_size
from sslgraph.nodes.shuffle import call_in_order
from sslgraph.ports import In

if TYPE_CHECKING:
    from sslgraph.nodes.base import Node

ANY = -1
"""The rank of a port with open leading axes."""


def rank_of(port: In) -> int:
    """Number of axes without views; `ANY` where leading axes are open."""
    return ANY if port.axes[:1] == ("...",) else len(port.axes)


def _has_view_axis(value: Tensor, rank: int) -> bool:
    """Whether a value carries views: one axis more than declared; of open ones, more than B D."""
    return value.dim() > 2 if rank == ANY else value.dim() == rank + 1


def wrap_forward(cls: type[Node]) -> None:
    """Put lifting, evaluation and gathering round `forward`; nothing where the class needs none."""
    forward = inspect.unwrap(cls.forward)
    evaluate = getattr(cls, "evaluate", None)
    names = [name for name, _ in cls._read_axes]
    order = [name for name in inspect.signature(forward).parameters if name != "self"]
    if not (cls._lifts or evaluate or cls.gathers or order != names):
        return

    def in_order(call: Callable[..., Any]) -> Callable[..., Any]:
        if order == names:
            return call
        return lambda self, *values: call(self, **dict(zip(names, values, strict=True)))

    train_call = in_order(forward)
    eval_call = in_order(evaluate) if evaluate else train_call

    @functools.wraps(forward)
    def wrapped(self: Node, *args: Tensor | None, **given: Tensor | None) -> Any:
        values = args
        if len(args) != len(names) or given:
            values = arranged(self, args, given, names)
        if self.training and self.gathers and world_size() > 1:
            values = _gathered(self, names, values)
        call = train_call if self.training else eval_call
        if self._lifts:
            return _call_lifted(self, call, values)
        return call(self, *values)

    cls.forward = wrapped


def wrap_write(cls: type[Node], names: list[str]) -> None:
    """Let `write` see the batch of all processes where the class asks for it."""
    write: Any = inspect.unwrap(cls.write)  # type: ignore[attr-defined]

    @functools.wraps(write)
    def wrapped(self: Node, **given: Tensor | None) -> None:
        values = tuple(given.get(name) for name in names)
        if world_size() > 1:
            values = _gathered(self, names, values)
        write(self, **dict(zip(names, values, strict=True)))

    cls.write = wrapped  # type: ignore[attr-defined]


def arranged(
    node: Node, args: tuple[Any, ...], given: Mapping[str, Any], names: list[str]
) -> tuple[Any, ...]:
    """The inputs in declared order, None where an optional one is not given.

    Raises:
        TypeError: One is missing, unknown or too many.
    """
    values = dict(zip(names, args, strict=False), **given)
    unknown = [name for name in given if name not in names]
    missing = [
        name
        for name, port in node.declaration.reads.items()
        if name not in values and not port.optional
    ]
    if unknown or missing or len(args) > len(names):
        takes = ", ".join(f"{name}: {node.declaration.inputs[name]}" for name in names)
        wrong = (
            f"unknown {unknown}"
            if unknown
            else f"missing {missing}"
            if missing
            else "too many inputs"
        )
        raise TypeError(f"{node.declaration.use} takes {takes}: {wrong}")
    return tuple(values.get(name) for name in names)


def _call_lifted(node: Node, call: Callable[..., Any], values: tuple[Tensor | None, ...]) -> Any:
    with_views = [
        value is not None and _has_view_axis(value, rank)
        for value, (_, rank) in zip(values, node._read_axes, strict=True)
    ]
    apart = node._apart and node.training
    ordered = node._sharing is not None and node.training
    if not any(with_views) or (node._open and not apart and not ordered):
        return _called(node, call, values)
    views = max(
        v.shape[0] for v, has in zip(values, with_views, strict=True) if has and v is not None
    )
    if views == 1:
        flat = [
            v[0] if has and v is not None else v for v, has in zip(values, with_views, strict=True)
        ]
        return _each_output(node, _called(node, call, flat), lambda y: y.unsqueeze(0))
    if apart:
        return _one_view_at_a_time(node, call, values, with_views, views)
    flat = [
        v.expand(views, *v.shape[1:]).flatten(0, 1) if has and v is not None else v
        for v, has in zip(values, with_views, strict=True)
    ]
    result = _called(node, call, flat, views)
    return _each_output(node, result, lambda y: y.unflatten(0, (views, -1)))


def _called(
    node: Node, call: Callable[..., Any], values: Sequence[Tensor | None], views: int = 1
) -> Any:
    if node._sharing is not None and node.training:
        return call_in_order(node, node._sharing, call, values, views)
    return call(node, *values)


def _one_view_at_a_time(
    node: Node,
    call: Callable[..., Any],
    values: tuple[Tensor | None, ...],
    with_views: list[bool],
    views: int,
) -> Any:
    results = []
    for view in range(views):
        one = [
            v[min(view, v.shape[0] - 1)] if has and v is not None else v
            for v, has in zip(values, with_views, strict=True)
        ]
        results.append(_called(node, call, one))
    if len(node.declaration.outputs) == 1:
        return torch.stack(results)
    return node.Outputs(*(torch.stack(parts) for parts in zip(*results, strict=True)))


def _each_output(node: Node, result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if len(node.declaration.outputs) == 1:
        return change(result)
    return node.Outputs(*(change(part) for part in result))


def _gathered(
    node: Node, names: list[str], values: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    done = []
    for name, value in zip(names, values, strict=True):
        mode = node.gathers.get(name, "no")
        axes = node.declaration.inputs[name].axes
        if value is None or mode == "no":
            done.append(value)
        else:
            place = axes.index("B")  # counted from the side where no open axes stand
            place -= 0 if "..." in axes[place:] else len(axes)
            done.append(gather(value, place, grad=mode == "grad"))
    return tuple(done)
