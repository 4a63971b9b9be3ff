"""The entropy of the mean prediction: MSN's number, its limits, its gradient, several processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import make_node
from tests.conftest import OnRanks


def loss_of(x: Tensor, temperature: float = 0.1, **settings: Any) -> Tensor:
    """The loss with its temperature in float64."""
    node = make_node("mean_entropy", temperature=temperature, **settings)
    node.temperature = torch.tensor(temperature, dtype=torch.float64)
    value: Tensor = node(x)
    return value


def by_formula(x: np.ndarray[Any, Any], temperature: float) -> float:
    """ln K less the entropy of the mean row."""
    powers = np.exp(x / temperature - (x / temperature).max(-1, keepdims=True))
    mean = (powers / powers.sum(-1, keepdims=True)).reshape(-1, x.shape[-1]).mean(0)
    return float(math.log(x.shape[-1]) + (mean * np.log(mean)).sum())


def waves(first: int, last: int, *shape: int) -> Tensor:
    return torch.arange(first, last + 1, dtype=torch.float64).sin().view(shape)


def test_the_golden_of_msn() -> None:
    """Four anchors against five prototypes, by cosines."""
    anchors = torch.nn.functional.normalize(waves(1, 12, 2, 2, 3), dim=-1)
    prototypes = torch.nn.functional.normalize(waves(7, 21, 5, 3), dim=-1)
    assert loss_of(anchors @ prototypes.T).item() == pytest.approx(0.160525066589, abs=1e-11)


def test_it_is_zero_for_an_even_mean_and_ln_k_for_one_prototype() -> None:
    """Rows that are sure of one prototype each are even where they name all of them."""
    for rows in (torch.zeros(2, 3, 8), 50 * torch.eye(8).reshape(2, 4, 8)):
        assert loss_of(rows).item() == pytest.approx(0, abs=1e-6)
    one = 50 * torch.eye(8)[:1].expand(2, 3, 8)
    assert loss_of(one).item() == pytest.approx(math.log(8), abs=1e-6)
    node: Any = make_node("mean_entropy")
    assert (node.chance({"K": 8}), node.floor({"K": 8})) == (0.0, 0.0)


def test_all_views_and_positions_are_one_mean() -> None:
    x = waves(1, 48, 2, 3, 2, 4)
    assert loss_of(x, 0.3).item() == pytest.approx(by_formula(x.numpy(), 0.3), rel=1e-12)
    shuffled = x.flatten(0, 2)[torch.randperm(12)].view(3, 2, 2, 4)
    assert loss_of(shuffled, 0.3).item() == pytest.approx(loss_of(x, 0.3).item(), rel=1e-12)


def test_gradient_and_extremes() -> None:
    x = waves(1, 24, 1, 6, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_of(x, 0.3), (x,))
    far = torch.tensor([[[1e4, -1e4, 0.0]]], requires_grad=True)
    torch.autograd.backward(loss_of(far))
    assert far.grad is not None
    assert far.grad.isfinite().all()


def on_one_rank(rank: int, x: Tensor, ranks: str) -> tuple[Tensor, Tensor]:
    own = x[:, 3 * rank : 3 * rank + 3].clone().requires_grad_()
    loss = loss_of(own, 0.3, ranks=ranks)
    torch.autograd.backward(loss)
    assert own.grad is not None
    return loss.detach(), own.grad


def test_two_processes_are_one(on_ranks: OnRanks) -> None:
    """The mean is over both and lets the gradient through; with `own` each has its mean."""
    x = waves(1, 24, 1, 6, 4)
    whole = x.clone().requires_grad_()
    loss = loss_of(whole, 0.3)
    torch.autograd.backward(loss)
    assert whole.grad is not None
    for rank, (value, grad) in enumerate(on_ranks(on_one_rank, x, "all")):
        torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
        expected = whole.grad[:, 3 * rank : 3 * rank + 3]
        torch.testing.assert_close(grad / 2, expected, rtol=1e-9, atol=1e-14)
    for rank, (value, _) in enumerate(on_ranks(on_one_rank, x, "own")):
        own = x[:, 3 * rank : 3 * rank + 3].numpy()
        assert value.item() == pytest.approx(by_formula(own, 0.3), rel=1e-12)
