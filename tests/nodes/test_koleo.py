"""The KoLeo term: numbers of the released code's formula, neighbours, gradients, processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sslgraph

OnRanks = Callable[..., list[Any]]


def waves(rows: int, width: int) -> Tensor:
    return torch.arange(1, rows * width + 1, dtype=torch.float64).sin().view(1, rows, width)


def by_formula(x: np.ndarray[Any, Any]) -> float:
    """-mean ln |x - nearest|, one image after the other."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-8)
    total = 0.0
    for i, row in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        nearest = max(others, key=lambda j: float(row @ unit[j]))
        total += math.log(np.linalg.norm(row - unit[nearest] + 1e-8) + 1e-8)
    return -total / len(unit)


@pytest.mark.parametrize(
    ("rows", "value"),  # dinov2/loss/koleo_loss.py
    [
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], -math.log(math.sqrt(2))),
        (waves(4, 3)[0].tolist(), 1.314588611),
        # two equal rows and one apart: (2 ln(1e-8 sqrt 2 + 1e-8) + ln sqrt 2) / -3
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 11.5773),
    ],
)
def test_golden_numbers_of_dinov2(rows: list[list[float]], value: float) -> None:
    x = torch.tensor([rows], dtype=torch.float64)
    assert sslgraph.node("koleo")(x=x).item() == pytest.approx(value, abs=1e-4)
    assert sslgraph.node("koleo")(x=x).item() == pytest.approx(by_formula(x[0].numpy()), rel=1e-9)


def test_views_are_apart_and_averaged_or_summed() -> None:
    x = torch.cat([waves(4, 3), waves(4, 3).flip(-1).cos()])
    single = [by_formula(view.numpy()) for view in x]
    assert sslgraph.node("koleo")(x=x).item() == pytest.approx(sum(single) / 2, rel=1e-9)
    assert sslgraph.node("koleo", reduce="sum")(x=x).item() == pytest.approx(sum(single), rel=1e-9)


def test_neighbours_are_those_of_a_group() -> None:
    x = waves(6, 3)
    single = [by_formula(x[0, i : i + 3].numpy()) for i in (0, 3)]
    assert sslgraph.node("koleo", group=3)(x=x).item() == pytest.approx(sum(single) / 2, rel=1e-9)
    with pytest.raises(ValueError, match="groups of 4, got 6 images"):
        sslgraph.node("koleo", group=4)(x=x)


def test_a_step_down_the_gradient_parts_neighbours_whatever_their_length() -> None:
    x = waves(4, 3).requires_grad_()
    loss = sslgraph.node("koleo")(x=x)
    (grad,) = torch.autograd.grad(loss, x)
    assert sslgraph.node("koleo")(x=x - 1e-3 * grad) < loss
    assert torch.allclose((grad * x).sum(-1), torch.zeros(1, 4, dtype=grad.dtype), atol=1e-9)
    assert sslgraph.node("koleo")(x=7 * x).item() == pytest.approx(loss.item(), rel=1e-6)


def test_one_point_is_chance() -> None:
    node: Any = sslgraph.node("koleo", reduce="sum")
    x = torch.ones(2, 5, 4, dtype=torch.float64)
    chance = node.chance({"V": 2, "B": 5, "D": 4})
    assert node(x=x).item() == pytest.approx(chance, rel=1e-6)


def on_rank(rank: int, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    x = waves(6, 3)[:, 3 * rank : 3 * rank + 3].clone().requires_grad_()
    loss = sslgraph.node("koleo", **settings)(x=x)
    loss.backward()
    assert x.grad is not None
    return loss.detach(), x.grad


def test_over_processes(on_ranks: OnRanks) -> None:
    """With `all` two halves are the whole; with `own` each has neighbours of its own."""
    whole = waves(6, 3).requires_grad_()
    loss = sslgraph.node("koleo")(x=whole)
    loss.backward()
    assert whole.grad is not None
    for rank, (part, grad) in enumerate(on_ranks(on_rank, {"ranks": "all"})):
        assert torch.allclose(part, loss)
        assert torch.allclose(grad / 2, whole.grad[:, 3 * rank : 3 * rank + 3])
    for rank, (part, _) in enumerate(on_ranks(on_rank, {"ranks": "own"})):
        own = by_formula(waves(6, 3)[0, 3 * rank : 3 * rank + 3].numpy())
        assert part.item() == pytest.approx(own, rel=1e-9)
