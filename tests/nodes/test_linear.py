"""One linear layer: its numbers, its first weights, and the kind of what it gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.checking import report
from sslgraph.errors import render
from sslgraph.nodes.base import make_node


def made(**settings: Any) -> Any:
    return make_node("linear", axes={"D": 768}, **{"out": 200, **settings})


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5)])
def test_it_is_a_matrix_on_the_last_axis(shape: tuple[int, ...]) -> None:
    node: Any = make_node("linear", axes={"D": 5}, out=7)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight, bias = (p.detach().numpy() for p in (node.layer.weight, node.layer.bias))
    np.testing.assert_allclose(node(x).detach().numpy(), x.numpy() @ weight.T + bias, atol=1e-5)
    assert make_node("linear", axes={"D": 5}, out=7, bias=False).layer.bias is None  # type: ignore[union-attr]


def test_first_weights() -> None:
    """A normal cut at one deviation has 0.53956 of it: sqrt(1 - 2 phi(1) / (2 Phi(1) - 1))."""
    assert not made(init="zero").layer.weight.any()
    density, inside = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erf(1 / math.sqrt(2))
    narrow = 0.02 * math.sqrt(1 - 2 * density / inside)
    assert narrow == pytest.approx(0.02 * 0.53956, rel=1e-4)
    for init, deviation in (("trunc_normal", narrow), (0.02, 0.02), (None, 1 / math.sqrt(3 * 768))):
        layer = made(init=init).layer
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert layer.bias.any() == (init is None)
    assert made(init="trunc_normal").layer.weight.abs().max() <= 0.02


def graph(kind: str, loss: str) -> sslgraph.Graph:
    """Tokens that predict the pixels of their patches."""
    return sslgraph.load(
        {
            "sslgraph": 1,
            "nodes": {
                "view": {"use": "augment", "in": "batch.image", "views": 1, "size": 32},
                "encoder": {"use": "encoder", "in": "view", "arch": "test_vit"},
                "head": {"use": "linear", "in": "encoder.tokens", "out": 768, "kind": kind},
                "target": {"use": "patchify", "in": "view"},
                "loss": {
                    "use": loss,
                    "in": {"prediction": "head", "target": "target"},
                    "pairs": "same",
                },
            },
            "minimize": {"loss": 1.0},
        }
    )


def test_the_kind_of_the_output() -> None:
    """Scores unless it is told to keep the kind: the features of patches stay tokens."""
    assert report(graph("same", "mse")).problems == []
    assert sslgraph.compile(graph("same", "mse")).plan.kinds["head", "y"] == "tokens"
    assert sslgraph.compile(graph("logits", "mse")).plan.kinds["head", "y"] == "logits"
    wrong = "\n".join(render(p) for p in report(graph("same", "cross_entropy")).problems)
    assert "logits" in wrong


def test_gradients_reach_weights_and_input() -> None:
    x: Tensor = torch.randn(1, 3, 768, requires_grad=True)
    made()(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()
