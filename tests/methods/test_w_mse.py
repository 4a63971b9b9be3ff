"""W-MSE as a graph against W-MSE written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.train.rates import Horizon
from tests.methods import joint
from tests.methods.joint import BATCH
from tests.methods.w_mse_by_hand import WMse, make_views

SEED = 12
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.hidden": 16,
    "vars.dim": 2,
    "vars.part": 4,
    "train.batch_size": BATCH,
    "train.lr.warmup": "1 step",
    "train.lr.shape.at": ["1 epochs", "3 steps"],
}
RATES = [0.0, 2e-3, 4e-4, 8e-5]
X = [[1, 2], [2, 1], [4, 3], [0, 5], [3, 3]]
Y = [[1, 1], [2, 2], [5, 3], [1, 4], [2, 3]]


def both(changes: dict[str, Any], iterations: int = 1) -> tuple[Method, WMse, joint.Pairs]:
    """The method and the same by hand, with equal weights."""
    method = joint.in_float64("w_mse", {**SMALL, **changes}, SEED)
    hand = WMse("test_resnet", joint.width_of(method), 16, 2)
    parts = {"encoder": hand.encoder, "projector": hand.head}
    joint.share_weights(method, parts)
    hand = hand.double().train()
    hand.begin(4, SEED, iterations, RATES)
    return method, hand, joint.beside(method, parts)


def test_views_are_those_of_the_documented_formula(images: Tensor) -> None:
    method = joint.in_float64("w_mse", SMALL, SEED)
    joint.require_views(method, images, make_views(images.float() / 255, SEED, "views", 24))


@pytest.mark.parametrize(
    ("changes", "iterations"),
    [({}, 1), ({"vars.views": 4}, 1), ({"nodes.white.iterations": 3}, 3)],
    ids=["two views", "four views", "three iterations"],
)
def test_four_steps_are_equal(changes: dict[str, Any], iterations: int, images: Tensor) -> None:
    """With Adam, warm-up and both drops of its rate."""
    method, hand, modules = both(changes, iterations)
    joint.require_equal_steps(method, hand, modules, images, SEED, steps=4)


def test_parts_of_each_view_alone_are_seen(images: Tensor) -> None:
    """The comparison can fail: whitening the whole batch as one part is another loss."""
    method, hand, _ = both({"vars.part": 8})
    batch = {"image": images, "index": torch.arange(BATCH)}
    views = method.run({}, ["views"], batch)["views"]
    assert abs(method(batch).loss.item() - hand(*views).item()) > 1e-2


def test_the_golden_loss(images: Tensor) -> None:
    """0.392609 for one part of five rows; equal views have no distance."""
    method = joint.in_float64("w_mse", {**SMALL, "vars.part": 5, "train.batch_size": 5}, SEED)
    z = torch.tensor([X, Y], dtype=torch.float64)
    data = {"index": torch.arange(5)}
    assert method.run({"projector": z}, ["loss"], data)["loss"].item() == pytest.approx(
        0.392609, abs=1e-6
    )
    same = method.run({"projector": z[[0, 0]]}, ["loss"], data)["loss"]
    assert same.item() == pytest.approx(0, abs=1e-12)


def test_gradient_reaches_both_views(images: Tensor) -> None:
    method = joint.in_float64("w_mse", SMALL, SEED)
    z = torch.randn(2, BATCH, 2, dtype=torch.float64).requires_grad_()
    loss = method.run({"projector": z}, ["loss"], {"index": torch.arange(BATCH)})["loss"]
    loss.backward()
    assert z.grad is not None
    assert (z.grad.abs().sum((1, 2)) > 1e-3).all()


def test_without_whitening_the_check_warns() -> None:
    wires = {"nodes.loss.in": {"prediction": "projector", "target": "projector"}}
    problems = sslgraph.check(sslgraph.load("w_mse", set={**SMALL, **wires, "nodes.white": None}))
    assert "W501" in {problem.code for problem in problems}


@pytest.mark.parametrize(("change", "place"), [({"vars.part": 2}, "size"), ({"vars.part": 3}, "")])
def test_parts_that_can_not_be_are_found(change: dict[str, Any], place: str) -> None:
    """Two rows have no covariance in two dimensions; eight images are no parts of three."""
    (problem,) = sslgraph.check(sslgraph.load("w_mse", set={**SMALL, **change}))
    assert problem.severity == "error"
    assert "whiten" in problem.span.text or "white" in problem.span.text


@pytest.mark.parametrize(("dim", "expected"), [(128, 658_560), (64, 592_960)])
def test_sizes_of_the_published_networks(dim: int, expected: int) -> None:
    """128 numbers for 100 classes of ImageNet, 64 for CIFAR, after a ResNet-18."""
    parameters = joint.sizes_of("w_mse", set={"vars.dim": dim}).parameters
    assert parameters["encoder"] == 11_176_512
    assert parameters["projector"] == expected


def test_parts_have_twice_as_many_rows_as_dimensions() -> None:
    """256 rows of 128 numbers: with few more than dimensions the inverse has no precision."""
    graph = sslgraph.load("w_mse")
    variables: Any = graph.document.data["vars"]
    assert (variables["part"], variables["dim"]) == (256, 128)
    assert graph.nodes["white"].settings == {"size": 256}


def test_the_learning_rate_of_the_recipe() -> None:
    """500 steps of warm-up; a fifth of the rate 50 and 25 epochs before the end."""
    graph, epoch = sslgraph.load("w_mse"), 247
    expected = {250: 1e-3, 500: 2e-3}
    for drop, before, after in ((190 * epoch, 2e-3, 4e-4), (215 * epoch, 4e-4, 8e-5)):
        expected |= {drop - 1: before, drop: after}
    joint.require_rates(graph, Horizon(240 * epoch, epoch), expected)
    spec = graph.train
    assert (spec.optimizer, spec.weight_decay, spec.no_decay) == ("adam", 1e-6, [])
    assert (spec.epochs, spec.batch_size) == (240, 512)
