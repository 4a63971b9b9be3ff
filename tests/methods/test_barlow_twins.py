"""Barlow Twins as a graph against Barlow Twins written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.checking import report
from sslgraph.method import Method
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.barlow_twins_by_hand import BarlowTwins, recipe_rate
from tests.methods.byol_by_hand import make_views
from tests.methods.joint import BATCH, RUN, in_float64, pictures, require_equal_steps, updater_of

SEED = 7
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.dim": 24,
    "train.batch_size": BATCH,
    "train.lr.warmup": "2 steps",
    "train.lr.end": 0.2 * BATCH / 256 * 0.001,
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(BATCH, 28)


@pytest.fixture
def method() -> Method:
    return in_float64("barlow_twins", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> BarlowTwins:
    nodes: Any = method.nodes
    hand = BarlowTwins("test_resnet", nodes["projector"].layers[0].in_features, 24)
    hand.encoder.load_state_dict(nodes["encoder"].model.state_dict())
    hand.projector.load_state_dict(nodes["projector"].layers.state_dict())
    hand = hand.double().train()
    hand.begin(RUN.total_steps, 2)
    return hand


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    index = {"index": torch.arange(BATCH)}
    made = method.run({"batch.image": images}, ["views"], index)["views"]
    expected = torch.stack(make_views(images.float() / 255, SEED, "views", 24)).double()
    assert torch.allclose(made, expected, rtol=0, atol=1e-6)


def test_four_steps_are_equal(method: Method, by_hand: BarlowTwins, images: Tensor) -> None:
    """With LARS and both learning rates; the first step of the warm-up has the rate 0."""
    nodes: Any = method.nodes
    pairs = [
        (nodes["encoder"].model, by_hand.encoder),
        (nodes["projector"].layers, by_hand.projector),
    ]
    require_equal_steps(method, by_hand, pairs, images, SEED, steps=4)


@pytest.mark.parametrize(
    "wrong", [{"train.lr.scale": None}, {"train.no_decay": []}, {"minimize.loss": 1.0}]
)
def test_another_recipe_is_seen(wrong: Any, by_hand: BarlowTwins, images: Tensor) -> None:
    """The comparison can fail: one rate for all, trust for biases, the loss as it is."""
    method = in_float64("barlow_twins", {**SMALL, **wrong}, SEED)
    nodes: Any = method.nodes
    pairs = [(nodes["projector"].layers, by_hand.projector)]
    with pytest.raises(AssertionError):
        require_equal_steps(method, by_hand, pairs, images, SEED)


def test_sizes_of_the_published_networks() -> None:
    sizes = report(sslgraph.load("barlow_twins")).sizes
    assert sizes is not None
    assert sizes.parameters["encoder"] == 23_508_032
    assert sizes.parameters["projector"] == 151_027_712
    assert sizes.parameters["loss"] == 0


def test_learning_rates_of_the_recipe() -> None:
    """1.6 for weights and 0.0384 for biases and norms at 2048 images."""
    graph = sslgraph.load("barlow_twins", set={"vars.arch": "test_resnet", "vars.dim": 8})
    run = Horizon(1000 * 625, 625)
    for step in (0, 1000, 6250, 100_000, 624_999):
        found = learning_rate(graph.train.lr, 2048, step, run)
        expected = 0.2 * recipe_rate(step, run.total_steps, 10 * 625, 2048)
        assert found == pytest.approx(expected, rel=1e-9)
    updater = updater_of(sslgraph.compile(graph), 0, run)
    rates = {
        parameter.ndim > 1: group.rule.rate(1.6, graph.train, 6250, run)
        for group in updater.groups
        for parameter in group.parameters
    }
    assert rates == {True: pytest.approx(1.6), False: pytest.approx(0.0384)}
    kinds = {(p.ndim > 1, g.rule.adapt) for g in updater.groups for p in g.parameters}
    assert kinds == {(True, True), (False, False)}
    assert (graph.train.epochs, graph.train.weight_decay) == (1000, 1e-6)


def test_independent_dimensions_at_the_start() -> None:
    """About lambda D (D - 1) / N beside the diagonal: 167 at the published size."""
    width, batch = 512, 256
    published = 0.0051 * 8192 * 8191 / 2048
    assert published == pytest.approx(167, abs=0.2)
    x = torch.randn(1, batch, width, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
    method = sslgraph.compile(sslgraph.load("barlow_twins", set=SMALL))
    loss = method.run({"projector": x}, ["loss"])["loss"].item()
    assert loss == pytest.approx(0.0051 * width * (width - 1) / batch, rel=0.02)
