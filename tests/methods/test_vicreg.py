"""VICReg as a graph against VICReg written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.checking import report
from sslgraph.method import Method
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.barlow_twins_by_hand import recipe_rate
from tests.methods.byol_by_hand import make_views
from tests.methods.joint import BATCH, RUN, in_float64, pictures, require_equal_steps, updater_of
from tests.methods.vicreg_by_hand import VicReg

SEED = 8
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
    return in_float64("vicreg", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> VicReg:
    nodes: Any = method.nodes
    hand = VicReg("test_resnet", nodes["expander"].layers[0].in_features, 24)
    hand.encoder.load_state_dict(nodes["encoder"].model.state_dict())
    hand.expander.load_state_dict(nodes["expander"].layers.state_dict())
    hand = hand.double().train()
    hand.begin(RUN.total_steps, 2)
    return hand


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    index = {"index": torch.arange(BATCH)}
    made = method.run({"batch.image": images}, ["views"], index)["views"]
    expected = torch.stack(make_views(images.float() / 255, SEED, "views", 24)).double()
    assert torch.allclose(made, expected, rtol=0, atol=1e-6)


def test_four_steps_are_equal(method: Method, by_hand: VicReg, images: Tensor) -> None:
    """With LARS; the first step of the warm-up has the rate 0."""
    require_equal_steps(method, by_hand, _pairs(method, by_hand), images, SEED, steps=4)


@pytest.mark.parametrize(
    "wrong", [{"nodes.loss.variance": 50.0}, {"nodes.expander.end": "bn_plain"}]
)
def test_another_loss_is_seen(wrong: Any, by_hand: VicReg, images: Tensor) -> None:
    """The comparison can fail: the sum of both variance terms; a norm at the end."""
    method = in_float64("vicreg", {**SMALL, **wrong}, SEED)
    with pytest.raises(AssertionError):
        require_equal_steps(method, by_hand, _pairs(method, by_hand), images, SEED)


def test_sizes_of_the_published_networks() -> None:
    sizes = report(sslgraph.load("vicreg")).sizes
    assert sizes is not None
    assert sizes.parameters["encoder"] == 23_508_032
    assert sizes.parameters["expander"] == 151_044_096


def test_learning_rates_of_the_recipe() -> None:
    """1.6 for all at 2048 images; what has one axis is neither adapted nor decayed."""
    graph = sslgraph.load("vicreg", set={"vars.arch": "test_resnet", "vars.dim": 8})
    run = Horizon(1000 * 625, 625)
    for step in (0, 1000, 6250, 100_000, 624_999):
        found = learning_rate(graph.train.lr, 2048, step, run)
        expected = 0.2 * recipe_rate(step, run.total_steps, 10 * 625, 2048)
        assert found == pytest.approx(expected, rel=1e-9)
    updater = updater_of(sslgraph.compile(graph), 0, run)
    rates = {g.rule.rate(1.6, graph.train, 6250, run) for g in updater.groups}
    assert rates == {1.6}
    kinds = {(p.ndim > 1, g.rule.adapt) for g in updater.groups for p in g.parameters}
    assert kinds == {(True, True), (False, False)}
    assert (graph.train.epochs, graph.train.weight_decay) == (1000, 1e-6)


def _pairs(method: Method, hand: VicReg) -> Any:
    nodes: Any = method.nodes
    return [
        (nodes["encoder"].model, hand.encoder),
        (nodes["expander"].layers, hand.expander),
    ]
