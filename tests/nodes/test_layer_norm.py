"""Rows against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslgraph.nodes.base import make_node


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_rows_against_numpy(epsilon: float) -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 3, 4, 6))
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)  # biased
    expected = torch.from_numpy((x - mean) / np.sqrt(variance + epsilon))
    node = make_node("layer_norm", axes={"D": 6}, affine=False, epsilon=epsilon)
    torch.testing.assert_close(node(torch.from_numpy(x)), expected, rtol=1e-10, atol=1e-12)
    assert not list(node.parameters())
    assert not node.declaration.learns


def test_scale_and_shift_are_learned() -> None:
    node = make_node("layer_norm", axes={"D": 4}).double()
    assert node.declaration.learns
    weights = dict(node.named_parameters())
    assert {name: value.tolist() for name, value in weights.items()} == {
        "norm.weight": [1.0] * 4,
        "norm.bias": [0.0] * 4,
    }
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=torch.float64)
    with torch.no_grad():
        weights["norm.weight"].copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        weights["norm.bias"].fill_(10.0)
    root = (1.25 + 1e-5) ** 0.5
    expected = [10 - 1.5 / root, 10 - 2 * 0.5 / root, 10 + 3 * 0.5 / root, 10 + 4 * 1.5 / root]
    assert node(x).flatten().tolist() == pytest.approx(expected, rel=1e-12)
