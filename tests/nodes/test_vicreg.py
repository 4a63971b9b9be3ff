"""The loss against the paper by hand, its invariances, and two processes against one."""

from __future__ import annotations

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

ZEROS = [[0.0, 0.0]] * 4
SHIFTED = [[2.0, 2.0], [2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]


def loss_of(x: Tensor, *others: Tensor, **settings: Any) -> Tensor:
    node = make_node("vicreg", **settings)
    value: Tensor = node(x, *others)
    return value


def by_hand(a: Array, b: Array, weights: tuple[float, float, float]) -> float:
    """Equations 1 to 6, with the mean of both variance terms as in the code."""
    parts = [((a - b) ** 2).mean(), 0.0, 0.0]
    for z in (a, b):
        n, width = z.shape
        centred = z - z.mean(0)
        for i in range(width):
            s = np.sqrt(centred[:, i] @ centred[:, i] / (n - 1) + 1e-4)
            parts[1] += max(0.0, 1 - s) / width / 2
            for j in set(range(width)) - {i}:
                parts[2] += (centred[:, i] @ centred[:, j] / (n - 1)) ** 2 / width
    return float(np.dot(weights, parts))


@pytest.fixture
def z() -> Tensor:
    """Deviations on both sides of 1."""
    x = torch.randn(3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x * torch.tensor([0.2, 0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (ZEROS, ZEROS, 24.75),
        (H, H, 0.0),
        (TWICE, TWICE, 32 / 9),
        (H, SHIFTED, 25.0),
        (A, B, 45.0),
    ],
)
def test_goldens(a: Any, b: Any, expected: float) -> None:
    """Values that the authors' function gives too."""
    assert loss_of(double([a, b])).item() == pytest.approx(expected, abs=1e-9)
    assert loss_of(double([a]), double([b]), pairs="all").item() == pytest.approx(expected)


def test_the_parts_of_one_golden() -> None:
    """1, 0 and 20."""
    for setting, expected in (("similarity", 1.0), ("variance", 0.0), ("covariance", 20.0)):
        weights: dict[str, Any] = {"similarity": 0, "variance": 0, "covariance": 0, setting: 1}
        assert loss_of(double([A, B]), **weights).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (0.5, 0.0, 2.0), (0.0, 3.0, 0.0)])
def test_against_the_formula(z: Tensor, weights: tuple[float, float, float]) -> None:
    names = ("similarity", "variance", "covariance")
    settings: dict[str, Any] = dict(zip(names, weights, strict=True))
    found = loss_of(z[:2], **settings).item()
    expected = by_hand(z[0].numpy(), z[1].numpy(), weights)
    assert found == pytest.approx(expected, rel=1e-12)


def test_pairs(z: Tensor) -> None:
    a, b, c = z.numpy()
    weights = (25.0, 25.0, 1.0)
    each = [by_hand(x, y, weights) for x, y in ((a, b), (a, c), (b, c))]
    assert loss_of(z).item() == pytest.approx(sum(each) / 3, rel=1e-12)
    assert loss_of(z, reduce="sum").item() == pytest.approx(sum(each), rel=1e-12)
    assert loss_of(z.flip(0)).item() == pytest.approx(sum(each) / 3, rel=1e-12)
    each = [by_hand(a, c, weights), by_hand(b, b, weights)]
    assert loss_of(z[:2], z[1:]).item() == pytest.approx(sum(each) / 2, rel=1e-12)


def test_a_common_shift_does_not_matter(z: Tensor) -> None:
    value = loss_of(z[:2]).item()
    assert loss_of(z[:2] + 3).item() == pytest.approx(value, rel=1e-12)
    assert abs(loss_of(z[:2] * 2).item() - value) > 1e-3
    # a shift of one view is a difference alone
    apart: dict[str, Any] = {"similarity": 0.0}
    moved = torch.stack([z[0], z[1] + 3])
    assert loss_of(moved, **apart).item() == pytest.approx(loss_of(z[:2], **apart).item())


def test_a_rotation_of_both_leaves_the_difference_and_the_whole_covariance(z: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator)).Q
    alone: dict[str, Any] = {"variance": 0.0, "covariance": 0.0}
    turned = z[:2] @ rotation
    assert loss_of(turned, **alone).item() == pytest.approx(loss_of(z[:2], **alone).item())
    beside: dict[str, Any] = {"variance": 0.0, "similarity": 0.0}

    def of_all(x: Tensor) -> float:
        diagonal = float(x.var(1).square().sum())
        return loss_of(x, **beside).item() * 5 + diagonal

    assert of_all(turned) == pytest.approx(of_all(z[:2]))
    assert abs(loss_of(turned, **beside).item() - loss_of(z[:2], **beside).item()) > 1e-3


def test_wide_dimensions_get_no_gradient_of_the_variance(z: Tensor) -> None:
    x = z[:2].clone().requires_grad_()
    torch.autograd.backward(loss_of(x, similarity=0.0, covariance=0.0))
    assert x.grad is not None
    wide = z[:2].var(1) >= 1
    assert wide.any()
    assert not wide.all()
    assert x.grad.abs().amax(1)[wide].max() == 0
    assert x.grad.abs().amax(1)[~wide].min() > 1e-4


def test_collapse_is_a_plateau() -> None:
    """Constant views: 24.75, and a gradient of exactly zero, so that only noise leads away."""
    x = torch.full((2, 8, 4), 3.0, dtype=torch.float64).requires_grad_()
    loss = loss_of(x)
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(24.75)
    assert x.grad is not None
    assert not x.grad.any()


def test_equal_embeddings_are_at_chance() -> None:
    for reduce, count in (("mean", 1), ("sum", 3)):
        node: Any = make_node("vicreg", reduce=reduce, variance=10.0)
        sizes = {"V": 3, "B": 8, "D": 5}
        assert node.chance(sizes) == pytest.approx(count * 9.9)
        assert node(torch.ones(3, 8, 5)).item() == pytest.approx(count * 9.9)
        assert node.floor(sizes) == 0


def test_two_processes_are_one(on_ranks: OnRanks, z: Tensor) -> None:
    """Variances and covariances are those of the whole batch, divided by its size less one."""
    view_losses.require_one_process(on_ranks, loss_of, z)


def test_evaluation_does_not_wait_for_other_processes(on_ranks: OnRanks, z: Tensor) -> None:
    view_losses.require_no_waiting(on_ranks, "vicreg", z)
    assert torch.isfinite(make_node("vicreg").eval()(z[:1]))  # one clean view


def test_too_little_is_refused(z: Tensor) -> None:
    with pytest.raises(ValueError, match="vicreg compares views of one image, got 1 view"):
        make_node("vicreg")(z[:1])
    with pytest.raises(ValueError, match="variance over a batch, got 1 sample"):
        make_node("vicreg")(z[:, :1])


def test_autocast_leaves_the_loss_in_single_precision() -> None:
    view_losses.require_single_precision("vicreg")
