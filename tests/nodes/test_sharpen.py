"""Sharpening against numpy, and what each setting takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sslgraph.checking import report
from sslgraph.loading import load
from sslgraph.nodes.base import make_node


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))


def by_hand(x: Tensor, temperature: float) -> Tensor:
    scaled = x.numpy().astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(-1, keepdims=True))
    return torch.from_numpy(exponents / exponents.sum(-1, keepdims=True)).float()


def test_logits_against_numpy(x: Tensor) -> None:
    for temperature in (0.04, 1.0, 3.0):
        node = make_node("sharpen", temperature=temperature)
        torch.testing.assert_close(node(x), by_hand(x, temperature))


def test_a_power_of_probabilities_is_a_temperature_of_logits(x: Tensor) -> None:
    torch.testing.assert_close(make_node("sharpen", power=4.0)(x.softmax(-1)), by_hand(x, 1 / 4))
    both = make_node("sharpen", temperature=0.1, power=4.0)
    torch.testing.assert_close(both(x), by_hand(x, 0.1 / 4))


def test_a_high_power_of_small_probabilities_still_sums_to_one() -> None:
    flat = torch.full((1, 2, 65536), 1 / 65536)
    torch.testing.assert_close(make_node("sharpen", power=16.0)(flat), flat)


def test_a_number_that_follows_the_run(x: Tensor) -> None:
    node = make_node("sharpen", temperature={"linear": [0.04, 0.07], "over": "30 epochs"})
    assert isinstance(node.temperature, Tensor)
    node.temperature.fill_(0.055)
    torch.testing.assert_close(node(x), by_hand(x, 0.055))


def test_autocast_keeps_the_distribution_in_single_precision(x: Tensor) -> None:
    node = make_node("sharpen", temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = node(x.bfloat16())
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, by_hand(x.bfloat16().float(), 0.04))
    assert math.isclose(float(mixed[0, 0].sum()), 1, abs_tol=1e-6)


def test_something_has_to_say_how_much() -> None:
    with pytest.raises(ValueError, match="'temperature' for logits, or 'power' for probabilities"):
        make_node("sharpen")


def test_what_raises_probabilities_takes_no_logits() -> None:
    nodes = {
        "scores": {"use": "prototypes", "in": "batch.image", "count": 4},
        "target": {"use": "sharpen", "in": "scores", "power": 2.0},
        "again": {"use": "sharpen", "in": "target", "temperature": 0.1},
    }
    graph = load({"sslgraph": 1, "name": "wrong", "nodes": nodes, "outputs": {"a": "again"}})
    told = [problem.title for problem in report(graph).problems if problem.code == "E203"]
    assert "scores cannot feed target.x" in told
    assert "target cannot feed again.x" in told
