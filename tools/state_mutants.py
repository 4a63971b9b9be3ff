"""State out of order: writes that come first, never, twice or with the wrong sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from torch import Tensor, nn

from sslgraph import emit
from sslgraph.plan import Plan, Step

Line = tuple[str, Step | None]


def disorders(plan: Plan) -> Iterator[tuple[str, str, AbstractContextManager[None]]]:
    """For each node with state what can go wrong with it: operator, text, and how to do it."""
    for step in plan.steps:
        declared = step.declaration
        if not declared.writes:
            continue
        name, module = step.name, declared.module
        yield "lost writes", f"{name} never writes", _replaced(module, "write", _nothing)
        yield "double writes", f"{name} writes twice", _replaced(module, "write", _twice)
        if declared.writes == "batch":
            yield "early writes", f"{name} is written before it is read", _written_first(name)
        if declared.writes == "step":
            yield "inverted momentum", f"{name} keeps 1 - momentum", _inverted(module)
        both = [port for port in declared.reads if port in declared.written]
        if both:
            yield "wrong sign", f"{name} has the wrong sign", _replaced(module, "forward", _negated)


def _replaced(
    module: type[Any], method: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> AbstractContextManager[None]:
    @contextmanager
    def replaced() -> Iterator[None]:
        with mock.patch.object(module, method, change(getattr(module, method))):
            yield

    return replaced()


def _nothing(write: Callable[..., None]) -> Callable[..., None]:
    def lost(self: nn.Module, *given: Tensor, **named: Tensor) -> None:
        return None

    return lost


def _twice(write: Callable[..., None]) -> Callable[..., None]:
    def twice(self: nn.Module, *given: Tensor, **named: Tensor) -> None:
        write(self, *given, **named)
        write(self, *given, **named)

    return twice


def _negated(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What the state adds to the input is taken from it."""

    def negated(self: nn.Module, x: Tensor, *given: Tensor, **named: Tensor) -> Tensor:
        return 2 * x - forward(self, x, *given, **named)

    return negated


def _inverted(module: type[Any]) -> AbstractContextManager[None]:
    def change(write: Callable[..., None]) -> Callable[..., None]:
        def inverted(self: Any) -> None:
            kept = self.momentum.clone()
            self.momentum.copy_(1 - kept)
            write(self)
            self.momentum.copy_(kept)

        return inverted

    return _replaced(module, "write", change)


def _written_first(name: str) -> AbstractContextManager[None]:
    """Emit a node's write as soon as what it stores is there, and its reads after that."""
    body = emit._Emission._body

    def reordered(self: Any) -> list[Line]:
        lines: list[Line] = body(self)
        return early(lines, name)

    @contextmanager
    def first() -> Iterator[None]:
        with mock.patch.object(emit._Emission, "_body", reordered):
            yield

    return first()


def early(lines: list[Line], name: str) -> list[Line]:
    """The lines with the write of a node before its read, and what depends on that after both.

    A line that frees values is left out: what is written early may be freed too soon.
    """
    lines = [line for line in lines if not line[0].startswith("del ")]
    call, write = f'n["{name}"](', f'n["{name}"].write('
    place = next((i for i, (text, _) in enumerate(lines) if write in text), None)
    if place is None:
        return lines
    text, step = lines.pop(place)
    if lines[-1][0].startswith("with "):
        lines.pop()
    assert step is not None
    waits = {wire.source[0] for wires in step.wires("write").values() for wire in wires}
    late: list[Line] = []
    done: list[Line] = []
    pending = set(waits)
    written = False
    for line in lines:
        own = line[1].name if line[1] else ""
        reads = (
            {w.source[0] for ws in line[1].wires("read").values() for w in ws} if line[1] else set()
        )
        held = {other[1].name for other in late if other[1]}
        if not written and (call in line[0] or reads & held) and own not in waits:
            late.append(line)
            continue
        done.append(line)
        pending.discard(own)
        if not written and not pending:
            done += [(f"with torch.no_grad(): {text.strip()}", step), *late]
            late, written = [], True
    return done + late
