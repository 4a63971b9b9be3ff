"""MoCo v1 as a graph against MoCo v1 written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.method import Method
from tests.methods import joint, mocos
from tests.methods.moco_v1_by_hand import MocoV1, make_views, recipe_rate
from tests.methods.moco_v2_by_hand import shuffle

SEED, BATCH, QUEUE = 9, 12, 20
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.dim": 16,
    "vars.queue": QUEUE,  # no multiple of the batch: the second step wraps round
    "vars.groups": 3,
    "vars.momentum": 0.9,
    "train.batch_size": BATCH,
    "train.lr.shape": {"times": 0.1, "at": ["1 epoch", "2 epochs"]},
}
PEAK = 0.03 * BATCH / 256


@pytest.fixture(scope="module")
def images() -> Tensor:
    return joint.pictures(BATCH, 28)


@pytest.fixture
def method() -> Method:
    return joint.in_float64("moco_v1", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> MocoV1:
    nodes: Any = method.nodes
    hand = MocoV1("test_resnet", joint.width_of(method), 16)
    joint.share_weights(method, quick(hand))
    # of unit length to the last bit of float64, as the loss makes them
    rows = nn.functional.normalize(nodes["queue"].rows[0], dim=-1)
    hand = hand.double()
    hand.begin(rows, groups=3, temperature=0.07)
    return hand.train()


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    joint.require_views(method, images, make_views(images.float() / 255, SEED, "views", 24))


def test_five_steps_are_equal(method: Method, by_hand: MocoV1, images: Tensor) -> None:
    """Loss, gradients, both networks and the queue, over both drops of the learning rate."""
    updater, queue = joint.updater_of(method, SEED), method.nodes["queue"]
    fast, all_pairs = (
        joint.named_pairs(method, parts)
        for parts in (quick(by_hand), quick(by_hand) | slow(by_hand))
    )
    trained = [*by_hand.encoder.parameters(), *by_hand.projector.parameters()]
    descent = torch.optim.SGD(trained, PEAK, momentum=0.9, weight_decay=1e-4)
    for step in range(5):
        batch = {"image": images, "index": torch.arange(BATCH) + step * BATCH}
        views = method.run({"batch.image": images}, ["views"], batch)["views"]
        theirs = by_hand(views[0], views[1], shuffle(SEED, "key.encoder", step, BATCH))
        descent.zero_grad()
        theirs.backward()
        done = updater.begin([batch], step)
        torch.testing.assert_close(done.loss, theirs.detach(), rtol=1e-7, atol=0)
        for name, ours, other in fast:
            assert ours.grad is not None, name
            assert _close(ours.grad, other.grad), name
        descent.param_groups[0]["lr"] = PEAK * 0.1 ** (step // 2)
        descent.step()
        assert updater.finish(done) == ""
        by_hand.follow(0.9)
        for name, ours, other in all_pairs:
            assert _close(ours, other), name
        assert _close(queue.get_buffer("rows")[0], by_hand.queue)


def test_another_temperature_is_seen(by_hand: MocoV1, images: Tensor) -> None:
    """The comparison can fail: that of MoCo v2."""
    method = joint.in_float64("moco_v1", {**SMALL, "nodes.loss.temperature": 0.2}, SEED)
    batch = {"image": images, "index": torch.arange(BATCH)}
    views = method.run({"batch.image": images}, ["views"], batch)["views"]
    theirs = by_hand(views[0], views[1], shuffle(SEED, "key.encoder", 0, BATCH))
    loss: Any = method(batch).loss
    assert not torch.allclose(loss, theirs, rtol=1e-2)


def test_only_the_first_view_asks() -> None:
    """The loss is not symmetrised: one pair."""
    plan = report(sslgraph.load("moco_v1", set=SMALL)).plan
    assert plan is not None
    assert len(plan.step("loss").pairs) == 1


@pytest.mark.parametrize(("negative", "value"), [(1.0, 11.090370), (0.0, 0.040135)])
def test_the_loss_of_equal_and_of_told_apart_keys(negative: float, value: float) -> None:
    """The published queue: ln 65537 where nothing is told apart."""
    method = joint.in_float64("moco_v1", {**SMALL, "vars.queue": 65536}, SEED)
    query = torch.eye(16, dtype=torch.float64)[:1].expand(1, BATCH, 16)
    queue: Any = method.nodes["queue"]
    with torch.no_grad():
        queue.rows.zero_()[..., 0 if negative else 1] = 1
    found = method.run({"projector": query, "key": query}, ["loss"])["loss"]
    assert found.item() == pytest.approx(value, abs=1e-6)
    assert math.log(65537) == pytest.approx(11.090370, abs=1e-6)


def test_the_first_loss_is_that_of_random_rows(images: Tensor) -> None:
    """About 0.09: an untrained network has one direction for both views, the queue has none.

    Cosines with random rows are nearly normal, of variance 1/D, so that a row weighs
    exp(1 / (2 D T^2)) in the mean. Running statistics, not those of a few images, keep the views
    that near.
    """
    published = {**SMALL, "vars.dim": 128, "vars.queue": 65536}
    method = joint.in_float64("moco_v1", published, SEED).train(mode=False)
    batch = {"image": images, "index": torch.arange(BATCH)}
    made = method.run({}, ["projector", "key"], batch)
    cosines = nn.functional.cosine_similarity(made["projector"], made["key"], dim=-1)
    rows = 65536 * math.exp(1 / (2 * 128 * 0.07**2))
    assert math.log1p(rows * math.exp(-1 / 0.07)) == pytest.approx(0.087, abs=1e-3)
    expected = (rows * (-cosines / 0.07).exp()).log1p().mean().item()
    first = method.run(made, ["loss"])["loss"].item()
    assert first == pytest.approx(expected, rel=0.02)
    assert first == pytest.approx(0.09, abs=0.01)


def test_sizes_of_the_published_networks() -> None:
    mocos.require_published_sizes("moco_v1", 262_272)


def test_the_learning_rate_of_the_recipe() -> None:
    """A tenth from epoch 120 on, a hundredth from epoch 160 on."""
    mocos.require_published_recipe("moco_v1", recipe_rate)


def _close(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def quick(hand: MocoV1) -> dict[str, Any]:
    return {"encoder": hand.encoder, "projector": hand.projector}


def slow(hand: MocoV1) -> dict[str, Any]:
    return {"key.encoder": hand.slow_encoder, "key.projector": hand.slow_projector}
