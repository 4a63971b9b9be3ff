"""The loss against the paper by hand, its invariances, and two processes against one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslgraph.nodes.base import make_node
from tests.conftest import OnRanks
from tests.nodes import view_losses
from tests.nodes.view_losses import TWICE, A, B, H, double

Array = NDArray[np.float64]

MINUS = [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
SWAPPED = [[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]


def loss_of(x: Tensor, y: Tensor | None = None, weight: float = 0.0051, **settings: Any) -> Tensor:
    """The loss with its weight in float64."""
    node = make_node("barlow_twins", weight=weight, **settings)
    node.weight = torch.tensor(weight, dtype=torch.float64)
    value: Tensor = node(x) if y is None else node(x, y)
    return value


def by_hand(a: Array, b: Array, weight: float) -> float:
    """Equation 1, one pair of dimensions after the other; batch norm divides by the biased one."""
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (a, b))
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            c = float((a[:, i] * b[:, j]).mean())
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


@pytest.fixture
def z() -> Tensor:
    return torch.randn(3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("a", "b", "expected", "within"),
    [
        (H, H, 2e-10, 1e-14),  # the constant in the variance keeps it from 0
        (TWICE, TWICE, 0.010200, 1e-6),
        (H, MINUS, 7.99992, 1e-6),
        (H, SWAPPED, 2.010200, 1e-6),
        (A, B, 0.00520525, 1e-8),
    ],
)
def test_goldens(a: Any, b: Any, expected: float, within: float) -> None:
    """Values that the authors' function gives too."""
    assert loss_of(double([a, b])).item() == pytest.approx(expected, abs=within)
    found = loss_of(double([a]), double([b]), pairs="all").item()
    assert found == pytest.approx(expected, abs=within)


def test_both_parts_of_one_golden() -> None:
    """1.0529e-4 on the diagonal, 0.999992 beside it."""
    views = double([A, B])
    on = loss_of(views, weight=0).item()
    assert on == pytest.approx(1.0529e-4, abs=1e-8)
    assert loss_of(views, weight=1).item() - on == pytest.approx(0.999992, abs=1e-6)


@pytest.mark.parametrize("weight", [0.0051, 0.7])
def test_against_the_formula(z: Tensor, weight: float) -> None:
    found = loss_of(z[:2], weight=weight).item()
    assert found == pytest.approx(by_hand(z[0].numpy(), z[1].numpy(), weight), rel=1e-12)


def test_every_pair_counts_once(z: Tensor) -> None:
    a, b, c = z.numpy()
    each = [by_hand(x, y, 0.1) for x, y in ((a, b), (a, c), (b, c))]
    assert loss_of(z, weight=0.1).item() == pytest.approx(sum(each) / 3, rel=1e-12)
    found = loss_of(z, weight=0.1, reduce="sum").item()
    assert found == pytest.approx(sum(each), rel=1e-12)
    assert loss_of(z.flip(0), weight=0.1).item() == pytest.approx(sum(each) / 3, rel=1e-12)


def test_a_second_input_gives_pairs_of_both(z: Tensor) -> None:
    """Each view of x with those of y that came from another crop."""
    x, y = z[:2].numpy(), z[1:].numpy()
    each = [by_hand(x[0], y[1], 0.1), by_hand(x[1], y[0], 0.1)]
    found = loss_of(z[:2], z[1:], weight=0.1).item()
    assert found == pytest.approx(sum(each) / 2, rel=1e-12)


def test_what_it_does_not_see_and_what_it_does(z: Tensor) -> None:
    """Scale and shift of a dimension and its name do not matter, a rotation does."""
    value = loss_of(z[:2]).item()
    scale, shift = torch.tensor([2.0, 0.5, 3.0, 1.0, -4.0]), torch.arange(5.0)
    assert loss_of(z[:2] * scale.abs() + shift).item() == pytest.approx(value, rel=1e-3)
    order = torch.tensor([3, 1, 0, 4, 2])
    assert loss_of(z[:2, :, order]).item() == pytest.approx(value, rel=1e-12)
    assert loss_of(z[:2].flip(0)).item() == pytest.approx(value, rel=1e-12)
    one = z[0].clone()
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator)).Q
    apart = loss_of(torch.stack([one @ rotation, one @ rotation]), weight=1).item()
    assert abs(apart - loss_of(torch.stack([one, one]), weight=1).item()) > 1e-3


def test_gradients_sum_to_zero_over_the_batch(z: Tensor) -> None:
    x = z[:2].clone().requires_grad_()
    torch.autograd.backward(loss_of(x))
    assert x.grad is not None
    assert x.grad.abs().max() > 1e-3
    assert x.grad.sum(1).abs().max() < 1e-12


def test_equal_embeddings_are_at_chance() -> None:
    for views, reduce, count in ((2, "mean", 1), (3, "sum", 3)):
        node: Any = make_node("barlow_twins", reduce=reduce)
        assert node.chance({"V": views, "B": 8, "D": 5}) == count * 5
        assert node(torch.ones(views, 8, 5)).item() == count * 5
        assert node.floor({"V": views, "B": 8, "D": 5}) == 0
    node = make_node("barlow_twins", reduce="sum")
    assert node.chance({"V": 2, "V'": 3, "B": 8, "D": 5}) == 4 * 5


def test_two_processes_are_one(on_ranks: OnRanks, z: Tensor) -> None:
    """A sum without gradient gives half of it (issue 8 of the published code)."""
    view_losses.require_one_process(on_ranks, partial(loss_of, weight=0.1), z)


def test_evaluation_does_not_wait_for_other_processes(on_ranks: OnRanks, z: Tensor) -> None:
    view_losses.require_no_waiting(on_ranks, "barlow_twins", z)
    assert torch.isfinite(make_node("barlow_twins").eval()(z[:1]))  # one clean view


def test_one_view_is_refused(z: Tensor) -> None:
    with pytest.raises(ValueError, match="barlow_twins compares views of one image, got 1 view"):
        make_node("barlow_twins")(z[:1])
    with pytest.raises(ValueError, match="`pairs: same` leaves nothing to compare: x has 0, 1"):
        make_node("barlow_twins", pairs="same")(z[:2])


def test_autocast_leaves_the_loss_in_single_precision() -> None:
    view_losses.require_single_precision("barlow_twins")
