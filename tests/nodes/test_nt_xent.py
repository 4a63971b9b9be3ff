"""The loss against the paper by hand, its invariances, and two processes against one."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslgraph.nodes.base import make_node
from tests.conftest import OnRanks
from tests.nodes.view_losses import (
    A,
    B,
    require_no_waiting,
    require_one_process,
    require_single_precision,
)

Array = NDArray[np.float64]

I2 = [[1.0, 0.0], [0.0, 1.0]]


def loss_of(z: Tensor, temperature: float, **settings: Any) -> Tensor:
    """The loss with its temperature in float64."""
    node = make_node("nt_xent", temperature=temperature, **settings)
    node.temperature = torch.tensor(temperature, dtype=torch.float64)
    value: Tensor = node(z)
    return value


def by_hand(z: Array, temperature: float) -> float:
    """Equation 2 of SupCon with the image as the class: log outside, mean over the positives."""
    views, batch, width = z.shape
    rows = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(views * batch, width)
    image = np.tile(np.arange(batch), views)
    total = 0.0
    for i in range(views * batch):
        others = [j for j in range(views * batch) if j != i]
        denominator = sum(math.exp(rows[i] @ rows[j] / temperature) for j in others)
        positives = [j for j in others if image[j] == image[i]]
        terms = [
            math.log(math.exp(rows[i] @ rows[j] / temperature) / denominator) for j in positives
        ]
        total -= sum(terms) / len(terms)
    return float(total / (views * batch))


@pytest.mark.parametrize(
    ("a", "b", "temperature", "expected"),
    [
        (A, B, 0.1, 1.650423),
        (A, B, 0.5, 1.068774),
        (A, B, 1.0, 1.236400),
        (I2, I2, 0.5, math.log(1 + 2 * math.exp(-2))),
    ],
)
def test_goldens(a: Any, b: Any, temperature: float, expected: float) -> None:
    z = torch.tensor([a, b], dtype=torch.float64)
    assert loss_of(z, temperature).item() == pytest.approx(expected, abs=1e-6)
    assert loss_of(z, temperature, reduce="sum").item() == pytest.approx(2 * expected, abs=2e-6)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equal_rows_are_at_chance(temperature: float) -> None:
    z = torch.ones(2, 4, 3, dtype=torch.float64)
    node = make_node("nt_xent", temperature=temperature)
    assert loss_of(z, temperature).item() == pytest.approx(math.log(7))
    assert node.chance({"V": 2, "B": 4, "D": 3}) == pytest.approx(math.log(7))  # type: ignore[operator]
    many = torch.ones(3, 5, 2, dtype=torch.float64)
    chance = make_node("nt_xent", reduce="sum").chance({"V": 3, "B": 5})  # type: ignore[operator]
    assert loss_of(many, temperature, reduce="sum").item() == pytest.approx(chance)


@pytest.mark.parametrize("views", [2, 3, 4])
def test_against_the_formula(views: int) -> None:
    z = np.random.default_rng(views).normal(size=(views, 5, 7))
    for temperature in (0.1, 0.7):
        found = loss_of(torch.from_numpy(z), temperature).item()
        assert found == pytest.approx(by_hand(z, temperature), rel=1e-12)


@pytest.fixture
def z() -> Tensor:
    return torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_order_and_scale_do_not_matter(z: Tensor) -> None:
    value = loss_of(z, 0.2).item()
    assert loss_of(z[:, torch.tensor([3, 1, 5, 0, 2, 4])], 0.2).item() == pytest.approx(value)
    assert loss_of(z[[2, 0, 1]], 0.2).item() == pytest.approx(value)
    scales = torch.linspace(0.1, 9, 18, dtype=torch.float64).view(3, 6, 1)
    assert loss_of(z * scales, 0.2).item() == pytest.approx(value)
    mixed = z.clone()
    mixed[0] = z[0].roll(1, 0)  # another image's view in its place
    assert abs(loss_of(mixed, 0.2).item() - value) > 1e-3


def test_the_gradient_is_orthogonal_to_the_embedding(z: Tensor) -> None:
    z.requires_grad_()
    torch.autograd.backward(loss_of(z, 0.2))
    assert z.grad is not None
    assert z.grad.abs().max() > 1e-3
    assert (z.grad * z).sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_two_processes_are_one(on_ranks: OnRanks, z: Tensor, reduce: str) -> None:
    """Negatives of all processes, with gradient."""
    require_one_process(on_ranks, partial(loss_of, temperature=0.2, reduce=reduce), z)


def test_evaluation_does_not_wait_for_other_processes(on_ranks: OnRanks, z: Tensor) -> None:
    require_no_waiting(on_ranks, "nt_xent", z)


def test_one_view_is_refused() -> None:
    """Evaluation gives one view; its loss would be nan."""
    with pytest.raises(ValueError, match="nt_xent compares views of one image, got 1 view"):
        make_node("nt_xent")(torch.ones(1, 4, 3))


def test_autocast_leaves_the_loss_in_single_precision() -> None:
    require_single_precision("nt_xent", temperature=0.05)
