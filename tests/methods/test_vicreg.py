"""VICReg as a graph against VICReg written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from sslgraph.method import Method
from tests.methods import joint, twins
from tests.methods.twins import SMALL
from tests.methods.vicreg_by_hand import VicReg

SEED = 8


@pytest.fixture
def method() -> Method:
    return joint.in_float64("vicreg", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> VicReg:
    hand = VicReg("test_resnet", joint.width_of(method, "expander"), 24)
    twins.make_ready(hand, method, _parts(hand))
    return hand


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    twins.require_views_of_byol(method, images, SEED)


def test_four_steps_are_equal(method: Method, by_hand: VicReg, images: Tensor) -> None:
    """With LARS; the first step of the warm-up has the rate 0."""
    pairs = joint.beside(method, _parts(by_hand))
    joint.require_equal_steps(method, by_hand, pairs, images, SEED, steps=4)


@pytest.mark.parametrize(
    "wrong", [{"nodes.loss.variance": 50.0}, {"nodes.expander.end": "bn_plain"}]
)
def test_another_loss_is_seen(wrong: Any, by_hand: VicReg, images: Tensor) -> None:
    """The comparison can fail: the sum of both variance terms; a norm at the end."""
    method = joint.in_float64("vicreg", {**SMALL, **wrong}, SEED)
    with pytest.raises(AssertionError):
        joint.require_equal_steps(
            method, by_hand, joint.beside(method, _parts(by_hand)), images, SEED
        )


def test_sizes_of_the_published_networks() -> None:
    twins.require_published_sizes("vicreg", "expander", 151_044_096)


def test_learning_rates_of_the_recipe() -> None:
    """1.6 for all at 2048 images; what has one axis is neither adapted nor decayed."""
    updater = twins.require_published_recipe("vicreg")
    rates = {group.rule.rate(1.6, updater.spec, 6250, twins.RUN) for group in updater.groups}
    assert rates == {1.6}


def _parts(hand: VicReg) -> dict[str, Any]:
    return {"encoder": hand.encoder, "expander": hand.expander}
