"""Prototypes: what each scale computes, what it trains, and how many numbers a head has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslgraph.nodes.base import make_node

HEAD = {"hidden": [2048, 2048], "out": 256, "act": "gelu", "norm": "none", "end": "l2"}


def prototypes(scale: str, width: int = 5, count: int = 7) -> Any:
    torch.manual_seed(0)
    return make_node("prototypes", axes={"D": width}, count=count, scale=scale)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("width", "expected"), [(384, 22_352_128), (768, 23_138_560)])
def test_parameters_of_a_dino_head(width: int, expected: int) -> None:
    with torch.device("meta"):
        projector = make_node("projector", axes={"D": width}, **HEAD)
        last = make_node("prototypes", axes={"D": 256}, count=65536)
    numbers = [p.numel() for node in (projector, last) for p in node.parameters()]
    assert sum(numbers) == expected


def test_first_weights_of_a_dino_head() -> None:
    """Of vision_transformer.py: N(0, 0.02), cut off so far out that nothing is, and no biases.

    The last layer comes after that: its directions are those of PyTorch's linear layer.
    """
    torch.manual_seed(0)
    projector: Any = make_node("projector", axes={"D": 384}, init=0.02, **HEAD)
    linear = [layer for layer in projector.layers if isinstance(layer, nn.Linear)]
    assert [type(layer) for layer in projector.layers] == [nn.Linear, nn.GELU] * 2 + [nn.Linear]
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.01)
        assert layer.weight.abs().max() > 4 * 0.02
        assert not layer.bias.any()
    last: Any = make_node("prototypes", axes={"D": 256}, count=8192)
    assert last.v.std().item() == pytest.approx(1 / math.sqrt(3 * 256), rel=0.01)
    assert last.v.abs().max() <= 1 / 16
    assert torch.equal(last.g, torch.ones(8192, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_zeros_has_finite_logits(dtype: torch.dtype) -> None:
    settings: dict[str, Any] = {"hidden": [], "out": 5, "bias": False, "end": "l2"}
    projector = make_node("projector", axes={"D": 5}, **settings).to(dtype)
    rows = projector(torch.zeros(1, 2, 5, dtype=dtype))
    assert not rows.any()
    assert not prototypes("fixed").to(dtype)(rows).any()


def test_fixed_logits_are_cosines_of_unit_rows(x: Tensor) -> None:
    node = prototypes("fixed")
    unit = functional.normalize(x, dim=-1)
    cosines = functional.cosine_similarity(unit[:, :, None], node.v, dim=-1)
    torch.testing.assert_close(node(unit), cosines)
    assert not node.g.requires_grad
    assert torch.equal(node.g, torch.ones(7, 1))


def test_the_length_of_a_direction_does_not_count(x: Tensor) -> None:
    for scale in ("fixed", "learned"):
        node = prototypes(scale)
        before = node(x)
        with torch.no_grad():
            node.v *= torch.arange(1, 8)[:, None]
        torch.testing.assert_close(node(x), before)


def test_learned_is_weight_normalisation(x: Tensor) -> None:
    """Value and gradients against torch's own."""
    node, layer = prototypes("learned"), nn.Linear(5, 7, bias=False)
    layer = nn.utils.parametrizations.weight_norm(layer)
    lengths = layer.parametrizations.weight.original0
    direction = layer.parametrizations.weight.original1
    with torch.no_grad():
        node.g += torch.arange(7)[:, None] / 10
        lengths.copy_(node.g)
        direction.copy_(node.v)
    ours, theirs = node(x), layer(x)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(node.g.grad, lengths.grad)
    torch.testing.assert_close(node.v.grad, direction.grad)


def test_rows_of_unit_are_put_back_after_each_step_frozen_or_not(x: Tensor) -> None:
    node = prototypes("unit")
    torch.testing.assert_close(node.v.norm(dim=1), torch.ones(7))
    assert node.v.requires_grad
    for trained in (True, False):
        node.requires_grad_(trained)
        with torch.no_grad():
            node.v.mul_(3)
        directions = functional.normalize(node.v.detach(), dim=1)
        node.constrain()
        torch.testing.assert_close(node.v.detach(), directions)
    torch.testing.assert_close(node(x), x @ node.v.T)


def test_none_is_a_linear_layer(x: Tensor) -> None:
    node = prototypes("none")
    with torch.no_grad():
        node.v.mul_(3)
    kept = node.v.detach().clone()
    node.constrain()
    assert torch.equal(node.v, kept)
    torch.testing.assert_close(node(x), x @ kept.T)
    assert [name for name, _ in node.named_parameters()] == ["v"]


def test_directions_begin_like_a_linear_layer() -> None:
    """Uniform in +-1 / sqrt(D), as torch.nn.Linear: variance 1 / (3 D)."""
    v = prototypes("fixed", width=64, count=4000).v
    assert v.abs().max() <= 1 / 8
    assert v.abs().max() > 0.99 / 8
    assert v.var().item() == pytest.approx(1 / (3 * 64), rel=0.01)
