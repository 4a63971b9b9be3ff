"""SimSiam as a graph against SimSiam written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.train.rates import learning_rate
from tests.methods import joint
from tests.methods.joint import BATCH, RUN
from tests.methods.moco_v2_by_hand import make_views
from tests.methods.simsiam_by_hand import SimSiam
from tests.nodes.view_losses import A, B, double

SEED = 6
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.dim": 24,
    "vars.hidden": 8,
    "train.batch_size": BATCH,
}
THROUGH: dict[str, Any] = {
    "nodes.loss.in": {"prediction": "predictor", "target": "projector"},
    "nodes.target": None,
}
"""No gradient is stopped."""
PEAK = 0.05 * BATCH / 256


@pytest.fixture
def method() -> Method:
    return joint.in_float64("simsiam", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> SimSiam:
    hand = SimSiam("test_resnet", joint.width_of(method), 24, 8)
    joint.share_weights(method, _parts(hand))
    hand = hand.double().train()
    hand.begin(PEAK, RUN.total_steps // RUN.steps_per_epoch, RUN.steps_per_epoch)
    return hand


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    joint.require_views(method, images, make_views(images.float() / 255, SEED, "views", 24))


def test_three_steps_are_equal(method: Method, by_hand: SimSiam, images: Tensor) -> None:
    """With the recipe's optimizer over a change of epoch, where one of two rates falls."""
    joint.require_equal_steps(method, by_hand, joint.beside(method, _parts(by_hand)), images, SEED)


def test_a_wrong_wire_is_seen(by_hand: SimSiam, images: Tensor) -> None:
    """The comparison can fail: a target that gets a gradient has equal values and other slopes."""
    wrong: Any = joint.in_float64("simsiam", {**SMALL, **THROUGH}, SEED)
    views = make_views(images.float() / 255, SEED, "views", 24).double()
    ours = wrong({"image": images, "index": torch.arange(BATCH)}).loss
    theirs = by_hand(*views)
    assert torch.allclose(ours, theirs, rtol=1e-5)
    for loss in (ours, theirs):
        loss.backward()
    first: Any = wrong.nodes["projector"].layers[0]
    other: Any = by_hand.projector[0]
    assert not torch.allclose(first.weight.grad, other.weight.grad, rtol=0.1)


def test_without_stop_grad_or_predictor_the_check_warns() -> None:
    without = {"nodes.loss.in": {"prediction": "projector", "target": "target"}}
    for wrong in (THROUGH, {**without, "nodes.predictor": None}):
        problems = sslgraph.check(sslgraph.load("simsiam", set={**SMALL, **wrong}))
        assert "W501" in {problem.code for problem in problems}


def test_the_golden_loss_and_the_direction_of_its_gradient(method: Method) -> None:
    """-0.555702 where predictions and projections are the same six vectors."""
    p = double([A, B]).requires_grad_()
    z = p.detach().clone().requires_grad_()
    loss = method.run({"predictor": p, "projector": z}, ["loss"])["loss"]
    assert loss.item() == pytest.approx(-0.555702, abs=1e-6)
    loss.backward()
    assert z.grad is None
    assert p.grad is not None
    assert (p.grad * p).sum(-1).abs().max() < 1e-12
    bounds: Any = make_node("cosine_regression", reduce="mean", form="similarity")
    assert bounds.floor({"V": 2, "V'": 2, "B": 3, "D": 2}) == -1


def test_the_first_loss_is_that_of_unrelated_directions(images: Tensor) -> None:
    """About 0, four deviations of the cosine in 2048 dimensions; the end of a collapse is -1."""
    heads = {"vars.dim": 2048, "vars.hidden": 512}
    method = sslgraph.compile(sslgraph.load("simsiam", set={**SMALL, **heads}), seed=SEED)
    loss = method({"image": images, "index": torch.arange(BATCH)}).loss.item()
    assert loss == pytest.approx(0, abs=4 / 2048**0.5)


def test_sizes_of_the_published_heads() -> None:
    parameters = joint.sizes_of("simsiam").parameters
    assert parameters["encoder"] == 23_508_032
    assert parameters["projector"] == 12_591_104
    assert parameters["predictor"] == 2_100_224


def test_learning_rates_of_the_recipe() -> None:
    """0.1 for 512 images; after an epoch the encoder's is lower and the predictor's is the same."""
    method = sslgraph.compile(sslgraph.load("simsiam", set={"vars.arch": "test_resnet"}))
    updater = joint.updater_of(method, 0)
    rates = {}
    for step in (0, 1, 2):
        for group in updater.groups:
            rate = group.rule.rate(_run_rate(method, step), updater.spec, step, RUN)
            rates[step, group.names[0].split(".")[0]] = rate
    assert rates[0, "encoder"] == rates[0, "predictor"] == pytest.approx(0.1)
    assert rates[1, "encoder"] == rates[0, "encoder"]
    assert rates[2, "encoder"] < rates[0, "encoder"]
    assert rates[2, "predictor"] == rates[0, "predictor"]
    spec = updater.spec
    assert (spec.optimizer, spec.weight_decay, spec.no_decay) == ("sgd", 1e-4, [])
    assert (spec.epochs, spec.batch_size, spec.lr.warmup.value) == (100, 512, 0)


def _parts(hand: SimSiam) -> dict[str, Any]:
    return {
        "encoder": hand.encoder,
        "projector": hand.projector,
        "predictor": hand.predictor,
    }


def _run_rate(method: Method, step: int) -> float:
    spec = method.graph.train
    return learning_rate(spec.lr, spec.batch_size, step, RUN)
