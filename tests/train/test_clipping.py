"""Clipping by every scope, against plain loops over the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sslgraph.train.clipping import Clipping, tensor_norms, total_norm
from sslgraph.train.groups import ParameterGroup, Rule
from sslgraph.train_spec import Clip, Scale

# Norms 5, 13 and 1 in the encoder, 10 in the head, 0.5 in the queue's projection.
VALUES = {
    "encoder.conv.weight": [3.0, 4.0],
    "encoder.conv.bias": [5.0, 12.0],
    "encoder.norm.weight": [1.0, 0.0],
    "head.weight": [6.0, 8.0],
    "extra.weight": [0.3, 0.4],
}


def groups(values: dict[str, list[float]] = VALUES) -> list[ParameterGroup]:
    """Two groups, biases apart, so that a node's tensors stand in both."""
    rule = Rule(Scale(scale=1.0), 0.0, True)
    found = [ParameterGroup(rule), ParameterGroup(rule)]
    for name, numbers in values.items():
        parameter = nn.Parameter(torch.zeros(len(numbers)))
        parameter.grad = torch.tensor(numbers)
        group = found[name.endswith("bias")]
        group.names.append(name)
        group.parameters.append(parameter)
    return found


def gradients(of: list[ParameterGroup]) -> dict[str, list[float]]:
    pairs = [p for group in of for p in zip(group.names, group.parameters, strict=True)]
    return {name: p.grad.tolist() for name, p in pairs if p.grad is not None}


def clipped(spec: Clip, of: list[ParameterGroup]) -> dict[str, list[float]]:
    every = [p.grad for group in of for p in group.parameters if p.grad is not None]
    Clipping(spec, of)(tensor_norms(every, torch.zeros(())))
    return gradients(of)


def scaled(values: dict[str, list[float]], factors: dict[str, float]) -> dict[str, Any]:
    """The gradients times a factor each, those of no factor as they are."""
    return {
        name: pytest.approx([number * factors.get(name, 1.0) for number in numbers], rel=1e-6)
        for name, numbers in values.items()
    }


def test_the_run_has_one_norm() -> None:
    whole = (25 + 169 + 1 + 100 + 0.25) ** 0.5
    factors = dict.fromkeys(VALUES, 3 / (whole + 1e-6))
    assert clipped(Clip(norm=3.0), groups()) == scaled(VALUES, factors)


def test_the_run_is_clipped_as_torch_does() -> None:
    own, other = groups(), copy.deepcopy(groups())
    parameters = [p for group in other for p in group.parameters]
    for mine, its in zip(groups(), other, strict=True):
        for p, q in zip(mine.parameters, its.parameters, strict=True):
            q.grad = p.grad
    norm = nn.utils.clip_grad_norm_(parameters, 0.7)
    every = [p.grad for group in own for p in group.parameters if p.grad is not None]
    torch.testing.assert_close(total_norm(tensor_norms(every, torch.zeros(()))), norm)
    assert clipped(Clip(norm=0.7), own) == scaled(gradients(other), {})


def test_each_tensor_has_its_own_norm() -> None:
    # DINO: min(1, 3 / (|g| + 1e-6)), so the norms 1 and 0.5 stay.
    factors = {
        "encoder.conv.weight": 3 / (5 + 1e-6),
        "encoder.conv.bias": 3 / (13 + 1e-6),
        "head.weight": 3 / (10 + 1e-6),
    }
    assert clipped(Clip(norm=3.0, scope="tensor"), groups()) == scaled(VALUES, factors)


def test_the_epsilon_of_a_norm_at_the_limit() -> None:
    # A gradient of norm 1e-5 with this limit is scaled by 1e-5 / (1e-5 + 1e-6), as in DINO's code.
    small = {"head.weight": [1e-5, 0.0]}
    found = clipped(Clip(norm=1e-5, scope="tensor"), groups(small))
    assert found["head.weight"][0] == pytest.approx(1e-5 / 1.1)


def test_each_node_has_its_own_norm() -> None:
    encoder = 3 / ((25 + 169 + 1) ** 0.5 + 1e-6)
    factors = {name: encoder for name in VALUES if name.startswith("encoder")}
    factors["head.weight"] = 3 / (10 + 1e-6)
    assert clipped(Clip(norm=3.0, scope="node"), groups()) == scaled(VALUES, factors)


def test_lists_of_nodes_share_a_norm_and_the_rest_is_free() -> None:
    together = 3 / ((100 + 0.25) ** 0.5 + 1e-6)
    factors = {"head.weight": together, "extra.weight": together}
    spec = Clip(norm=3.0, scope=[["head", "extra"]])
    assert clipped(spec, groups()) == scaled(VALUES, factors)
    encoder = 3 / ((25 + 169 + 1) ** 0.5 + 1e-6)
    factors |= {name: encoder for name in VALUES if name.startswith("encoder")}
    spec = Clip(norm=3.0, scope=[["extra", "head"], ["encoder"]])
    assert clipped(spec, groups()) == scaled(VALUES, factors)


@pytest.mark.parametrize("scope", ["run", "tensor", "node"])
def test_absent_and_zero_gradients(scope: str) -> None:
    found = groups({"encoder.weight": [0.0, 0.0], "encoder.bias": [1.0, 0.0], "b.weight": [9.0]})
    found[0].parameters[1].grad = None
    spec = Clip.model_validate({"norm": 2.0, "scope": scope})
    assert clipped(spec, found) == {"encoder.weight": [0.0, 0.0], "encoder.bias": [1.0, 0.0]}
    for group in found:
        for parameter in group.parameters:
            parameter.grad = None
    assert clipped(spec, found) == {}


def test_a_node_without_gradients_in_a_list() -> None:
    spec = Clip(norm=3.0, scope=[["views"], ["head"]])
    factors = {"head.weight": 3 / (10 + 1e-6)}
    assert clipped(spec, groups()) == scaled(VALUES, factors)


def test_norms() -> None:
    like = torch.zeros(())
    norms = tensor_norms([torch.tensor([[3.0, 0.0]]), torch.tensor([0.0, 4.0])], like)
    assert norms.tolist() == [3.0, 4.0]
    assert total_norm(norms).item() == 5.0
    assert total_norm(tensor_norms([], like)).item() == 0.0


@pytest.mark.parametrize("bad", [3e38, torch.nan, torch.inf])
def test_a_norm_that_is_not_finite(bad: float) -> None:
    norms = tensor_norms([torch.ones(2), torch.full((2,), bad)], torch.zeros(()))
    assert not total_norm(norms).isfinite()
