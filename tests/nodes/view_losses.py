"""What tests of losses over views of a batch, V B D, have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import make_node
from tests.conftest import OnRanks

Loss = Callable[[Tensor], Tensor]

# Two views of three images, as unit rows (.6, .8), (1, 0), (0, 1) and (.8, .6), (0, -1), (-r, r).
A = [[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]
B = [[4.0, 3.0], [0.0, -1.0], [-1.0, 1.0]]
# Four images whose dimensions are uncorrelated, and two that say the same.
H = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
TWICE = [[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def on_one_rank(rank: int, loss: Loss, z: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient of one half of a batch."""
    half = z.shape[1] // 2
    mine = z[:, rank * half : (rank + 1) * half].clone().requires_grad_()
    value = loss(mine)
    torch.autograd.backward(value)
    assert mine.grad is not None
    return value.item(), mine.grad


def require_one_process(on_ranks: OnRanks, loss: Loss, z: Tensor) -> None:
    """See that loss and gradients of two processes are those of one with the whole batch.

    Data parallel training takes the mean over ranks, so each rank's gradient is twice its share. A
    gather or a sum that passes no gradient gives half of it.
    """
    whole = z.clone().requires_grad_()
    expected = loss(whole)
    torch.autograd.backward(expected)
    results = on_ranks(on_one_rank, loss, z)
    for value, _ in results:
        assert value == pytest.approx(expected.item(), rel=1e-12)
    found = torch.cat([grad for _, grad in results], 1) / 2
    torch.testing.assert_close(found, whole.grad, rtol=1e-10, atol=1e-14)


def in_evaluation(rank: int, use: str, z: Tensor) -> float | None:
    """The value on the first process, while the other one does nothing."""
    return float(make_node(use).eval()(z)) if rank == 0 else None


def require_no_waiting(on_ranks: OnRanks, use: str, z: Tensor) -> None:
    """See that an evaluation asks no other process."""
    expected = make_node(use).eval()(z).item()
    assert on_ranks(in_evaluation, use, z)[0] == pytest.approx(expected)


def require_single_precision(use: str, **settings: Any) -> None:
    """See that autocast changes nothing, and that the value of half precision is no half."""
    x = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    loss = make_node(use, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(x)
    assert torch.equal(mixed, loss(x))
    assert loss(x.bfloat16()).dtype == torch.float32
