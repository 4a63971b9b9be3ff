"""Barlow Twins as a graph against Barlow Twins written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from tests.methods import joint, twins
from tests.methods.barlow_twins_by_hand import BarlowTwins
from tests.methods.twins import SMALL

SEED = 7


@pytest.fixture
def method() -> Method:
    return joint.in_float64("barlow_twins", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> BarlowTwins:
    hand = BarlowTwins("test_resnet", joint.width_of(method), 24)
    twins.make_ready(hand, method, _parts(hand))
    return hand


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    twins.require_views_of_byol(method, images, SEED)


def test_four_steps_are_equal(method: Method, by_hand: BarlowTwins, images: Tensor) -> None:
    """With LARS and both learning rates; the first step of the warm-up has the rate 0."""
    pairs = joint.beside(method, _parts(by_hand))
    joint.require_equal_steps(method, by_hand, pairs, images, SEED, steps=4)


@pytest.mark.parametrize(
    "wrong", [{"train.lr.scale": None}, {"train.no_decay": []}, {"minimize.loss": 1.0}]
)
def test_another_recipe_is_seen(wrong: Any, by_hand: BarlowTwins, images: Tensor) -> None:
    """The comparison can fail: one rate for all, trust for biases, the loss as it is."""
    method = joint.in_float64("barlow_twins", {**SMALL, **wrong}, SEED)
    with pytest.raises(AssertionError):
        joint.require_equal_steps(
            method, by_hand, joint.beside(method, _parts(by_hand)), images, SEED
        )


def test_sizes_of_the_published_networks() -> None:
    twins.require_published_sizes("barlow_twins", "projector", 151_027_712)


def test_learning_rates_of_the_recipe() -> None:
    """1.6 for weights and 0.0384 for biases and norms at 2048 images."""
    updater = twins.require_published_recipe("barlow_twins")
    rates = {
        parameter.ndim > 1: group.rule.rate(1.6, updater.spec, 6250, twins.RUN)
        for group in updater.groups
        for parameter in group.parameters
    }
    assert rates == {True: pytest.approx(1.6), False: pytest.approx(0.0384)}


def test_independent_dimensions_at_the_start() -> None:
    """About lambda D (D - 1) / N beside the diagonal: 167 at the published size."""
    width, batch = 512, 256
    published = 0.0051 * 8192 * 8191 / 2048
    assert published == pytest.approx(167, abs=0.2)
    x = torch.randn(1, batch, width, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
    method = sslgraph.compile(sslgraph.load("barlow_twins", set=SMALL))
    loss = method.run({"projector": x}, ["loss"])["loss"].item()
    assert loss == pytest.approx(0.0051 * width * (width - 1) / batch, rel=0.02)


def _parts(hand: BarlowTwins) -> dict[str, Any]:
    return {"encoder": hand.encoder, "projector": hand.projector}
