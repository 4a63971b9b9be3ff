"""The order in which a node sees its samples, where it decides who shares batch statistics.

Batch norm cuts what a process computes into runs of rows (`BatchNorm`). So that the right samples
lie in one run, a node's inputs are put into an order before the call and its outputs back after
it; the node knows nothing of it. With ``ranks: shuffled`` the order is a permutation of the samples
of all processes, one per call and the same everywhere (shuffled batch norm: He et al., "Momentum
Contrast for Unsupervised Visual Representation Learning", section 3.3); with ``ranks: own`` it
puts the views of a group's samples beside each other.

With `mix` and `text_key` of `sslgraph.hashing`, the permutation of a node's call number t, counted
from 0, over the n rows of all processes is

    key         = text_key(f"{seed}/{name}") & (2^63 - 1)
    permutation = argsort over i < n of mix(text_key("shuffle"), key, t, i), as signed words

and process r of those with m rows each computes the rows permutation[r m : (r + 1) m].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslgraph.hashing import mix, text_key
from sslgraph.nodes.batch_norm import check_divides
from sslgraph.nodes.ranks import gather, rank, world_size
from sslgraph.ports import Port
from sslgraph.train_spec import BatchNormSpec

if TYPE_CHECKING:
    from sslgraph.nodes.base import Node

COUNTER = "shuffles"
"""Buffer of a node that shuffles: how many permutations it has drawn, 0-d int64."""

_DRAW = text_key("shuffle")


@dataclass(frozen=True)
class Sharing:
    """Which samples share batch statistics, where a node looks at parts of what it gets.

    Args:
        rule: With groups or shuffling.
        key: Of the node in its run; permutations are keyed by it.
    """

    rule: BatchNormSpec
    key: int


def has_batch(port: Port) -> bool:
    """Whether a port's values have samples in a row, which open leading axes begin with."""
    return port.axes[:1] == ("...",) or "B" in port.axes


def call_in_order(
    node: Node,
    sharing: Sharing,
    call: Callable[..., Any],
    values: Sequence[Tensor | None],
    views: int,
) -> Any:
    """Call a node on its samples in the order in which they share batch statistics.

    Args:
        node: A node with batch norm, in training.
        sharing: Its rule.
        call: Its forward, declared for one view.
        values: Its inputs; those with samples have them first, of all views one after the other.
        views: How many views that is.

    Returns:
        What `call` returns, samples in the order of the inputs.

    Raises:
        ValueError: The samples of this process can't be cut into groups of one size.
    """
    ports = [node.declaration.inputs[name] for name, _ in node._read_axes]
    rowed = [v is not None and has_batch(p) for v, p in zip(values, ports, strict=True)]
    first = next(v for v, has in zip(values, rowed, strict=True) if has and v is not None)
    rows = len(first)
    if first.is_meta:
        return call(node, *values)
    check_divides(rows // views, sharing.rule.groups, "samples")
    order = _order(node, sharing, rows, views, first.device)
    if order is None:
        return call(node, *values)
    across, back = len(order) > rows, order.argsort()
    mine = slice(rank() * rows, (rank() + 1) * rows) if across else slice(None)
    moved = [
        _taken(v, order[mine], across=across) if has and v is not None else v
        for v, has in zip(values, rowed, strict=True)
    ]
    result = call(node, *moved)
    single = len(node.declaration.outputs) == 1
    parts = (result,) if single else result
    ordered = [_taken(y, back[mine], across=across) for y in parts]
    return ordered[0] if single else node.Outputs(*ordered)


def _order(
    node: Node, sharing: Sharing, rows: int, views: int, device: torch.device
) -> Tensor | None:
    """Which row comes first, second, ...: of all processes where they shuffle; None: as it is."""
    rule = sharing.rule
    if rule.ranks == "shuffled":
        if world_size() * rule.groups == 1:
            return None
        total = torch.arange(world_size() * rows, device=device)
        counter = node.get_buffer(COUNTER)
        order = mix(_DRAW, sharing.key, counter, total).argsort(stable=True)
        counter.add_(1)
        return order
    if views == 1:
        return None
    each = torch.arange(rows, device=device).view(views, rule.groups, -1)
    return each.transpose(0, 1).flatten()


def _taken(x: Tensor, places: Tensor, *, across: bool) -> Tensor:
    """Some rows of this process, or of all processes; gradient flows back to where they were."""
    if across:
        x = gather(x, 0, grad=torch.is_grad_enabled() and x.requires_grad)
    return x.index_select(0, places)
