"""In one process what two would do apart: nodes with statistics of their own see half the images.

A node that says `ranks: own` looks at the images of its process. In one process with the whole
batch it is called once for each half instead, the second time with a state of its own. Where batch
norm deals the images of all processes out anew (`ranks: shuffled`), one process with twice the
groups deals out the same ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sslgraph.method import Method
from sslgraph.nodes.base import Node
from sslgraph.nodes.batch_norm import BatchNorm
from sslgraph.ports import Port
from sslgraph.proving.pool import RANKS
from sslgraph.proving.result import InapplicableError

Buffers = dict[str, Tensor]


def halve_local(method: Method) -> tuple[Callable[[], list[Buffers]], list[str]]:
    """Let every node with statistics of its own process see the batch as two processes would.

    Returns:
        What gives the buffers that each of the processes would have, and the names of the nodes.
    """
    local = [(path, node) for path, node in _nodes(method) if _is_local(node)]
    twins = {path: _twin(node) for path, node in local}
    for path, node in local:
        _halve(node, twins[path])
    shuffled = [path for path, node in _nodes(method) if _double_groups(node)]
    _refuse_mixed_views(method, shuffled)

    def buffers() -> list[Buffers]:
        first = {name: b.detach().clone() for name, b in method.nodes.named_buffers()}
        inside = [(path, *entry) for path, twin in twins.items() for entry in twin.named_buffers()]
        others = {f"{path}.{name}": buffer.detach().clone() for path, name, buffer in inside}
        return [first, {**first, **others}]

    return buffers, [*twins, *shuffled]


def _refuse_mixed_views(method: Method, shuffled: list[str]) -> None:
    """Refuse shuffling of several views as one batch: each process has its views in a row."""
    modules = dict(method.nodes.named_modules())
    for path in shuffled:
        step = method.plan.step(path.partition(".")[0])
        views = max((len(step.views[port]) for port in step.wires("read")), default=1)
        if views > 1 and any(norm.per == "none" for norm in _norms(modules[path])):
            raise InapplicableError(
                f"{path} deals out all views of all processes together, which no single process "
                "does alike"
            )


def shuffled_buffers(method: Method) -> set[str]:
    """The running statistics that each process takes from other images, equal in the mean."""
    return {
        f"{path}.{name}"
        for path, module in method.nodes.named_modules()
        if isinstance(module, BatchNorm) and module.ranks == "shuffled"
        for name, _ in module.named_buffers()
    }


def _nodes(method: Method) -> Iterator[tuple[str, Node]]:
    modules = method.nodes.named_modules()
    return ((path, module) for path, module in modules if isinstance(module, Node))


def _norms(node: nn.Module) -> Iterator[BatchNorm]:
    """The batch norms of a node, but for those of nodes inside it."""
    waiting: list[nn.Module] = [node]
    while waiting:
        for child in waiting.pop().children():
            if isinstance(child, BatchNorm):
                yield child
            elif not isinstance(child, Node):
                waiting.append(child)


def _is_local(node: Node) -> bool:
    own = getattr(node.config, "ranks", "") == "own"
    return own or any(norm.ranks == "own" for norm in _norms(node))


def _twin(node: Node) -> Node:
    """The same node with the same weights and a state of its own."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in node.parameters()}
    return copy.deepcopy(node, shared)


def _halve(node: Any, twin: Any) -> None:
    forward, write = node.forward, getattr(node, "write", None)
    reads, written = node.declaration.reads, node.declaration.written

    def call(*args: Tensor | None, **named: Tensor | None) -> Any:
        values = dict(zip(reads, args, strict=False)) | named
        if not node.training:
            return forward(**values)
        halves = [_part(values, reads, half) for half in range(RANKS)]
        results = [forward(**halves[0]), twin(**halves[1])]
        ports = list(node.declaration.outputs.values())
        if len(ports) == 1:
            return _joined(ports[0], results)
        parts = zip(ports, zip(*results, strict=True), strict=True)
        return node.Outputs(*(_joined(port, list(values)) for port, values in parts))

    node.forward = call
    if write is not None and written:

        def store(**given: Tensor | None) -> None:
            write(**_part(given, written, 0))
            twin.write(**_part(given, written, 1))

        node.write = store


def _part(values: dict[str, Any], ports: Any, half: int) -> dict[str, Any]:
    """Half of the images of each input; what has no images stays whole."""
    found = dict(values)
    for name, value in values.items():
        axis = _images(ports[name])
        if value is not None and axis is not None:
            count = value.shape[axis] // RANKS
            found[name] = value.narrow(axis, half * count, count)
    return found


def _joined(port: Port, parts: list[Tensor]) -> Tensor:
    """The images of both halves; of a value without images the mean."""
    axis = _images(port)
    return torch.stack(parts).mean(0) if axis is None else torch.cat(parts, axis)


def _images(port: Port) -> int | None:
    """Where a value on a wire has its images."""
    axes = port.on_the_wire()
    if "B" in axes:
        return axes.index("B")
    return 1 if axes[:1] == ("...",) else None


def _double_groups(node: Node) -> bool:
    """Deal images out to the groups of two processes; whether the node does so."""
    if node._sharing is None or node._sharing.rule.ranks != "shuffled":
        return False
    groups = node._sharing.rule.groups * RANKS
    rule = node._sharing.rule.model_copy(update={"groups": groups})
    node._sharing = replace(node._sharing, rule=rule)
    for norm in _norms(node):
        norm.groups = groups
    return True
