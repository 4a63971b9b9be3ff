"""BYOL as a graph against BYOL written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from tests.methods import joint
from tests.methods.byol_by_hand import Byol, make_views
from tests.methods.joint import BATCH, RUN

SEED, WARMUP, BASE = 5, 2, 6.4
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.hidden": 32,
    "vars.dim": 16,
    "train.batch_size": BATCH,
    "train.lr.warmup": f"{WARMUP} steps",
    "train.lr.base": BASE,  # large steps, so that the target has something to follow
}


@pytest.fixture
def method() -> Method:
    return joint.in_float64("byol", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> Byol:
    hand = Byol("test_resnet", joint.width_of(method), 32, 16)
    joint.share_weights(method, _parts(hand))
    hand = hand.double().train()
    hand.begin(BASE * BATCH / 256, RUN.total_steps, WARMUP)
    return hand


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    views = torch.stack(make_views(images.float() / 255, SEED, "views", 24))
    joint.require_views(method, images, views)


def test_four_steps_are_equal(method: Method, by_hand: Byol, images: Tensor) -> None:
    """With LARS; target and its own running statistics, from what it saw in training."""
    target = {"target.encoder": by_hand.target[0], "target.projector": by_hand.target[1]}
    pairs = joint.beside(method, {**_parts(by_hand), **target})
    joint.require_equal_steps(method, by_hand, pairs, images, SEED, steps=4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes.loss.pairs": "same"},
        {"nodes.loss.reduce": "mean"},
        {"nodes.target.momentum": 0.996},
        {"train.no_decay": []},
    ],
)
def test_another_method_is_seen(wrong: Any, by_hand: Byol, images: Tensor) -> None:
    """The comparison can fail: each view against its own target, half the loss, and so on."""
    method = joint.in_float64("byol", {**SMALL, **wrong}, SEED)
    target = {"target.encoder": by_hand.target[0], "target.projector": by_hand.target[1]}
    pairs = joint.beside(method, {**_parts(by_hand), **target})
    with pytest.raises(AssertionError):
        joint.require_equal_steps(method, by_hand, pairs, images, SEED, steps=4)


def test_swapped_views_are_the_same_loss(method: Method) -> None:
    """Both directions are summed, so which view is called the first one says nothing."""
    views = torch.randn(2, 8, 3, 24, 24, generator=torch.Generator().manual_seed(0)).double()
    found = [method.run({"views": given}, ["loss"])["loss"] for given in (views, views.flip(0))]
    assert torch.allclose(found[0], found[1], rtol=1e-12)


def test_the_first_loss_is_that_of_unrelated_directions(images: Tensor) -> None:
    """About 4: predictions and targets of random heads are at right angles, give or take 1/16."""
    heads = {"vars.hidden": 4096, "vars.dim": 256}
    method = joint.in_float64("byol", {**SMALL, **heads}, SEED)
    loss = method({"image": images, "index": torch.arange(8)}).loss.item()
    assert loss == pytest.approx(4, abs=4 * 4 / 16)


def test_sizes_of_the_published_heads() -> None:
    counts = joint.sizes_of("byol").parameters
    assert counts["encoder"] == 23_508_032
    assert (counts["projector"], counts["predictor"]) == (9_449_472, 2_109_440)
    assert counts["target"] == 23_508_032 + 9_449_472


def test_momentum_of_the_recipe() -> None:
    momentum: Any = sslgraph.load("byol").nodes["target"].settings["momentum"]
    assert momentum == {"cosine": [0.996, 1.0]}
    method = sslgraph.compile(sslgraph.load("byol", set=SMALL))
    method.clock.set(total_steps=1000, steps_per_epoch=10)
    for step, value in {0: 0.996, 250: 0.9965858, 500: 0.998, 1000: 1.0}.items():
        (hand,) = method.hands()
        assert math.isclose(hand.schedule.value(step, 1000, 10), value, abs_tol=5e-8)


def test_the_recipe() -> None:
    """Of 1000 epochs in the released `configs/byol.py`."""
    joint.require_lars_of_4096_images("byol", "post", 3.2, 1.5e-6)


def test_the_method_fits_on_a_screen() -> None:
    shown = sslgraph.load("byol").document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= 40


def _parts(hand: Byol) -> dict[str, Any]:
    return {name: getattr(hand, name) for name in ("encoder", "projector", "predictor")}
