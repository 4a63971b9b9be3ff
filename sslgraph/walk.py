"""Running a plan node by node: for the meta run, and to hold emitted code against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from sslgraph.checks.references import DATA, Port, Wire
from sslgraph.plan import Plan, Step

Values = dict[Port, Tensor]


class Modules(Protocol):
    """Node modules by name."""

    def __getitem__(self, name: str, /) -> Any:
        """The module of a node."""


def on_the_wire(batch: Mapping[str, Tensor]) -> Values:
    """A batch as wires carry it: one view, so the view axis is put first."""
    return {(DATA, name): value.unsqueeze(0) for name, value in batch.items()}


def joined(*parts: tuple[Tensor, int | None, int | None]) -> Tensor:
    """The views of several ports in a row, as evaluation sees them.

    A view node gives one view there, so any slice of one view is that view, and a list that names
    several of them holds it once.

    Args:
        *parts: Value, first view, view after the last one.
    """
    taken: list[Tensor] = []
    for value, first, last in parts:
        part = value if value.shape[0] == 1 else value[first:last]
        if not any(part is other for other in taken):
            taken.append(part)
    return taken[0] if len(taken) == 1 else torch.cat(taken)


def value_of(wires: tuple[Wire, ...], values: Values, *, evaluating: bool) -> Tensor:
    """What arrives at an input: some views of a port, or the views of several ports in a row."""
    slices = [(values[w.source], w.reference.start, w.reference.stop) for w in wires]
    if evaluating:
        return joined(*slices)
    parts = [
        value[first:last] if wire.reference.sliced else value
        for wire, (value, first, last) in zip(wires, slices, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def inputs_of(step: Step, values: Values, *, evaluating: bool) -> list[Tensor | None]:
    """The arguments of a step's `forward`, in declared order; None where unplugged."""
    plugged = step.wires("read")
    return [
        value_of(plugged[name], values, evaluating=evaluating) if name in plugged else None
        for name in step.declaration.reads
    ]


def outputs_of(step: Step, result: Any) -> Iterator[tuple[Port, Tensor]]:
    """The ports that a step's result fills."""
    names = list(step.declaration.outputs)
    parts = (result,) if len(names) == 1 else tuple(result)
    yield from (((step.name, name), part) for name, part in zip(names, parts, strict=True))


def walk(
    plan: Plan,
    nodes: Modules,
    feed: Values,
    fetch: Iterable[Port],
    *,
    evaluating: bool = False,
) -> Values:
    """Run the steps that `fetch` needs and return its values.

    Args:
        plan: The plan.
        nodes: The node modules by name.
        feed: Values of ports that are given.
        fetch: Ports that are wanted.
        evaluating: Whether slices of views mean the one view of evaluation.
    """
    wanted = list(fetch)
    values = dict(feed)
    for step in plan.needed(wanted, feed):
        result = nodes[step.name](*inputs_of(step, values, evaluating=evaluating))
        values.update((port, value) for port, value in outputs_of(step, result) if port not in feed)
    return {port: values[port] for port in wanted}
