"""Squares below beta, absolute values above, and the places that count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import make_node


def loss_of(prediction: Tensor, target: Tensor, *more: Tensor | None, **rest: Any) -> Tensor:
    value: Tensor = make_node("smooth_l1", **rest)(prediction, target, *more)
    return value


@pytest.mark.parametrize(
    ("beta", "values"),
    [(2.0, (0.0625, 0.25, 2.0)), (1.0, (0.125, 0.5, 2.5)), (0.0, (0.5, 1.0, 3.0))],
)
def test_differences_of_a_half_one_and_three(beta: float, values: tuple[float, ...]) -> None:
    for difference, value in zip((0.5, 1.0, 3.0), values, strict=True):
        for sign in (-1, 1):
            p = torch.full((1, 2, 4), sign * difference, dtype=torch.float64)
            assert loss_of(p, torch.zeros_like(p), beta=beta).item() == pytest.approx(value)


def test_the_slope_is_one_at_most() -> None:
    p = torch.tensor([[[-3.0, -0.5, 0.25, 9.0]]], requires_grad=True)
    torch.autograd.backward(loss_of(p, torch.zeros(1, 1, 4)))
    assert p.grad is not None
    assert (p.grad * 4).tolist() == [[[-1.0, -0.5, 0.25, 1.0]]]


@pytest.mark.parametrize("use", ["mse", "smooth_l1"])
def test_hidden_places_of_the_batch_of_each_image_or_by_weight(use: str) -> None:
    generator = np.random.default_rng(3)
    p, t = generator.normal(size=(2, 1, 3, 4, 5))
    mask = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    weight = generator.random((3, 4))
    d = np.abs(p - t)
    errors = d**2 if use == "mse" else np.where(d < 1, d**2 / 2, d - 0.5)
    each = errors.mean(-1)[0]
    tensors = torch.from_numpy(p), torch.from_numpy(t)
    hidden, weights = torch.from_numpy(mask)[None], torch.from_numpy(weight)[None]

    def found(*more: Tensor | None, **settings: Any) -> float:
        return float(make_node(use, **settings)(*tensors, *more))

    assert found() == pytest.approx(each.mean(), rel=1e-12)
    assert found(hidden) == pytest.approx(each[mask].mean(), rel=1e-12)
    by_image = (each[0, :3].mean() + each[1, 1]) / 3
    assert found(hidden, average="image") == pytest.approx(by_image, rel=1e-12)
    for average in ("batch", "image"):
        value = found(None, weights, average=average)
        assert value == pytest.approx((each * weight).sum(), rel=1e-12)
    assert found(hidden, weights) == pytest.approx((each * weight)[mask].sum(), rel=1e-12)


def test_weights_of_other_places_are_refused() -> None:
    with pytest.raises(ValueError, match=r"smooth_l1.weight marks places \[2 5\] of tokens, but"):
        loss_of(torch.ones(1, 2, 4, 3), torch.ones(1, 2, 4, 3), None, torch.ones(1, 2, 5))
    with pytest.raises(ValueError, match="beta"):
        make_node("smooth_l1", beta=-1.0)
