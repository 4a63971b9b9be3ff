"""Whitening against numpy and the paper's invariances, and two processes against one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslgraph.nodes.base import Context, SettingError, make_node
from sslgraph.nodes.whiten import Whiten
from tests.conftest import OnRanks
from tests.methods.simclr_by_hand import mix, text_key

Array = NDArray[np.float64]

X = [[1, 2], [2, 1], [4, 3], [0, 5], [3, 3]]
Y = [[1, 1], [2, 2], [5, 3], [1, 4], [2, 3]]


def whiten(**settings: Any) -> Any:
    return Whiten(axes={"D": 3}, context=Context("whiten", seed=7), **settings)


def order_by_hand(position: list[int], iteration: int) -> list[int]:
    """The documented order, from plain integers."""
    key = text_key("7/whiten") & ((1 << 63) - 1)
    words = [mix(text_key("whiten"), key, iteration, place) for place in position]
    signed = [word - (1 << 64) if word >> 63 else word for word in words]
    return sorted(range(len(position)), key=signed.__getitem__)


def whitened_by_hand(rows: Array, eps: float = 0.0) -> Array:
    centred = rows - rows.mean(0)
    covariance = (1 - eps) * np.cov(rows.T) + eps * np.eye(rows.shape[1])
    inverse: Array = np.linalg.inv(np.linalg.cholesky(covariance))
    white: Array = centred @ inverse.T
    return white


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def position() -> Tensor:
    return torch.arange(40, 52)[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_goldens(dtype: torch.dtype) -> None:
    """Values of the released code for one part of five rows, with its loss and with plain MSE."""
    z = torch.tensor([X, Y], dtype=dtype)
    y = make_node("whiten", size=5)(z, torch.arange(5)[None])
    distance = make_node("cosine_regression", reduce="mean")(y, y)
    assert distance.item() == pytest.approx(0.392609, abs=1e-6)
    assert make_node("mse", pairs="cross")(y, y).item() == pytest.approx(0.226970, abs=1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_parts_are_whitened_alone_and_alike_in_every_view(
    x: Tensor, position: Tensor, eps: float
) -> None:
    y = whiten(size=4, iterations=2, eps=eps)(x, position)
    assert y.shape == (2, 24, 3)
    orders = []
    for iteration in range(2):
        order = order_by_hand(position[0].tolist(), iteration)
        orders.append(order)
        for view in range(2):
            found = y[view, iteration * 12 : (iteration + 1) * 12].numpy()
            for part in (order[:4], order[4:8], order[8:]):
                expected = whitened_by_hand(x[view, part].numpy(), eps)
                np.testing.assert_allclose(found[part], expected, atol=1e-12)
    assert orders[0] != orders[1]


def test_mean_and_covariance_of_a_part(x: Tensor, position: Tensor) -> None:
    """Outputs of one part: mean 0, unbiased covariance 1."""
    y = whiten()(x * torch.tensor([1.0, 30.0, 0.01], dtype=x.dtype) + 5, position)
    for view in y.numpy():
        np.testing.assert_allclose(view.mean(0), 0, atol=1e-10)
        np.testing.assert_allclose(np.cov(view.T), np.eye(3), atol=1e-10)


def test_only_triangular_maps_are_undone(x: Tensor, position: Tensor) -> None:
    """Cholesky whitening undoes what is lower triangular, but no rotation."""
    lower = torch.tensor([[2.0, 0, 0], [-1, 0.5, 0], [3, 1, 4]], dtype=x.dtype)
    y = whiten()(x, position)
    torch.testing.assert_close(whiten()(x @ lower.T + 3, position), y)
    turned = whiten()(x[..., [1, 2, 0]], position)
    assert (turned - y[..., [1, 2, 0]]).abs().max() > 0.01


def test_gradient_flows_through_the_statistics(x: Tensor, position: Tensor) -> None:
    """Against finite differences of the whitening by hand."""
    x.requires_grad_()
    weight = torch.linspace(-1, 1, 72, dtype=x.dtype).view(2, 12, 3)
    (whiten()(x, position) * weight).sum().backward()
    assert x.grad is not None
    for view, row, column in ((0, 0, 0), (0, 7, 2), (1, 11, 1)):
        values = []
        for step in (1e-6, -1e-6):
            moved = x.detach().numpy().copy()
            moved[view, row, column] += step
            values.append((whitened_by_hand(moved[view]) * weight[view].numpy()).sum())
        slope = (values[0] - values[1]) / 2e-6
        assert x.grad[view, row, column].item() == pytest.approx(slope, abs=1e-6)


def test_equal_rows_give_nan_instead_of_an_error(x: Tensor, position: Tensor) -> None:
    x[1] = 1.0
    y = whiten()(x, position)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


def test_evaluation_leaves_rows_alone(x: Tensor, position: Tensor) -> None:
    assert torch.equal(whiten(size=4, iterations=3).eval()(x, position), x)


def test_half_precision_is_not_used(x: Tensor, position: Tensor) -> None:
    node, x = whiten(size=6), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = node(x, position)
    assert torch.equal(mixed, node(x, position))


@pytest.mark.parametrize(
    ("settings", "samples", "text"),
    [
        ({"size": 3}, 12, "3 rows have no covariance with a Cholesky factor in 3 dimensions"),
        ({}, 3, "3 rows have no covariance"),
        ({"size": 5}, 12, "12 samples can't be cut into parts of 5"),
    ],
)
def test_parts_that_can_not_be(settings: dict[str, Any], samples: int, text: str) -> None:
    with pytest.raises(SettingError, match=text):
        Whiten(axes={"D": 3}, context=Context(samples=samples), **settings)
    Whiten(axes={"D": 3}, context=Context(samples=12), size=4)
    Whiten(axes={"D": 3}, context=Context(samples=12), size=3, eps=0.1)


def test_a_batch_that_is_no_whole_parts(x: Tensor, position: Tensor) -> None:
    with pytest.raises(ValueError, match="parts of 5, got 12 samples"):
        whiten(size=5)(x, position)


def on_one_rank(rank: int, x: Tensor, position: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    mine = slice(rank * 6, rank * 6 + 6)
    part = x[:, mine].clone().requires_grad_()
    y = whiten(size=4, iterations=2)(part, position[:, mine])
    both = weight.view(2, 2, 12, 3)[:, :, mine].flatten(1, 2)
    (y * both).sum().backward()
    assert part.grad is not None
    return y.detach(), part.grad


def test_two_processes_are_one(on_ranks: OnRanks, x: Tensor, position: Tensor) -> None:
    """Parts are dealt out from the samples of both."""
    whole = x.clone().requires_grad_()
    weight = torch.linspace(-1, 1, 144, dtype=x.dtype).view(2, 24, 3)
    y = whiten(size=4, iterations=2)(whole, position)
    (y * weight).sum().backward()
    results = on_ranks(on_one_rank, x, position, weight)
    found = torch.cat([rows.view(2, 2, 6, 3) for rows, _ in results], 2).flatten(1, 2)
    torch.testing.assert_close(found, y.detach())
    torch.testing.assert_close(torch.cat([grad for _, grad in results], 1), whole.grad)
