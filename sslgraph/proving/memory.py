"""Reads before writes: what a node with a state gives comes from earlier forward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sslgraph.method import Method
from sslgraph.nodes.base import Node
from sslgraph.nodes.batch_norm import BatchNorm
from sslgraph.nodes.shuffle import COUNTER
from sslgraph.proving.case import Case
from sslgraph.proving.compare import changed
from sslgraph.proving.given import Call, watched
from sslgraph.proving.result import BrokenError, InapplicableError, listed


def reads_before_writes(case: Case) -> str:
    """What a node with a state gives in a forward pass comes from writes before that pass.

    Its state is as before until every node has read. What it gave is what it gives when only the
    state before the pass is there, another batch in this pass does not change it, and the write
    that follows does not change what it handed out.
    """
    names = [step.name for step in case.plan.steps if step.declaration.writes]
    if not names:
        raise InapplicableError("no node keeps a state")
    method = case.method()
    for number in range(2):
        case.forward(method, case.given(number))
        method.after_step()
    before, other = copy.deepcopy(method), copy.deepcopy(method)
    with watched(method, names) as calls, _writes_last(method, names):
        case.forward(method, case.given(2))
    with watched(other, names) as others:
        case.forward(other, case.given(3))
    for name in names:
        if name in calls:
            _as_before(before, name, calls[name], others[name])
    return f"{listed(names)} gave what earlier forward passes had written"


def _as_before(before: Method, name: str, call: Call, other: Call) -> None:
    """See that a node gave what its state before the pass gives."""
    with torch.no_grad():
        result: Any = before.nodes[name](*call.args)
    again = [result] if isinstance(result, Tensor) else list(result)
    reads = any(value is not None for value in call.args)
    for (port, value), expected in zip(call.kept.items(), again, strict=True):
        if not torch.equal(call.outputs[port].detach(), value):
            raise BrokenError(
                f"what {name}.{port} handed out was changed by the write that followed", name
            )
        if not torch.equal(value, expected):
            raise BrokenError(
                f"{name}.{port} is not what the state before the forward pass gives: it had seen "
                "this batch already",
                name,
            )
        if not reads and not torch.equal(value, other.kept[port]):
            raise BrokenError(f"{name}.{port} depends on the batch that it is to store", name)


@contextmanager
def _writes_last(method: Method, names: list[str]) -> Iterator[None]:
    """Within it a node is refused whose state changes before the first write."""
    started = {name: _state(method.nodes[name]) for name in names}
    writers: list[Any] = [n for _, n in method.nodes.items() if n.writes == "batch"]

    def see() -> None:
        for name, values in started.items():
            now = _state(method.nodes[name])
            for key in changed(values, now):
                text = f"{name}.{key} was written before every node had read"
                raise BrokenError(text, name)

    def restore() -> None:
        for node in writers:
            node.__dict__.pop("write", None)

    def seen_first(write: Callable[..., None]) -> Callable[..., None]:
        def call(**given: Tensor) -> None:
            see()
            restore()
            write(**given)

        return call

    for node in writers:
        node.write = seen_first(node.write)
    try:
        yield
        if not writers:
            see()
    finally:
        restore()


def _state(node: Node) -> dict[str, Tensor]:
    """The buffers and weights of a node, but for what batch norm counts and the clock fills."""
    left_out = {
        f"{path}.{name}" if path else name
        for path, module in node.named_modules()
        for name in _not_written(module)
    }
    both = [*node.named_parameters(), *node.named_buffers()]
    return {name: value.detach().clone() for name, value in both if name not in left_out}


def _not_written(module: nn.Module) -> list[str]:
    """Names of buffers that change in a forward pass by design."""
    if isinstance(module, BatchNorm):
        return [name for name, _ in module.named_buffers()]
    return [COUNTER, *module.schedules] if isinstance(module, Node) else []
