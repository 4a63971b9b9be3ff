"""NNCLR as a graph against NNCLR written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.method import Method
from tests.methods import joint
from tests.methods.joint import BATCH, RUN
from tests.methods.nnclr_by_hand import Nnclr
from tests.methods.simclr_by_hand import PUBLISHED, make_views, normalised
from tests.nodes.view_losses import A, B, double

SEED = 11
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.hidden": 16,
    "vars.dim": 12,
    "vars.predictor": 20,
    "vars.queue": 20,  # no multiple of the batch: the third step wraps round
    "train.batch_size": BATCH,
    "train.lr.warmup": "1 step",
    "train.lr.base": 32.0,  # large steps, so that neighbours change
}
Q4 = [[0.5**0.5, 0.5**0.5], [-(0.5**0.5), 0.5**0.5], [0.0, -1.0], [1.0, 0.0]]


@pytest.fixture
def method() -> Method:
    return joint.in_float64("nnclr", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> Nnclr:
    nodes: Any = method.nodes
    hand = Nnclr("test_resnet", joint.width_of(method), 16, 12, 20)
    joint.share_weights(method, parts(hand))
    hand = hand.double().train()
    temperature = nodes["loss"].temperature.item()
    assert temperature == pytest.approx(0.1)
    hand.begin(nodes["queue"].rows[0], 32 * BATCH / 256, RUN.total_steps, 1, temperature)
    return hand


def parts(hand: Nnclr) -> dict[str, Any]:
    return {name: getattr(hand, name) for name in ("encoder", "projector", "predictor")}


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    views = make_views(images.float() / 255, SEED, "views", {**PUBLISHED, "size": 24})
    joint.require_views(method, images, normalised(views))


def test_four_steps_are_equal(method: Method, by_hand: Nnclr, images: Tensor) -> None:
    """Loss, gradients, weights and the queue; the first step of the warm-up has the rate 0."""
    pairs = joint.beside(method, parts(by_hand))
    joint.require_equal_steps(method, by_hand, pairs, images, SEED, steps=4)
    queue: Any = method.nodes["queue"]
    assert queue.place.item() == 4 * BATCH % 20
    oldest_first = queue.rows[0].roll(-queue.place.item(), 0)
    torch.testing.assert_close(oldest_first, torch.stack(by_hand.rows), rtol=1e-7, atol=1e-9)


def test_a_queue_that_is_written_first_is_seen(by_hand: Nnclr, images: Tensor) -> None:
    """The comparison can fail: a row that finds itself has another loss."""
    other: Any = joint.in_float64("nnclr", SMALL, SEED)
    batch = {"image": images, "index": torch.arange(BATCH)}
    made = other.run({}, ["projector", "views"], batch)
    written = torch.nn.functional.normalize(made["projector"][0].detach(), dim=-1)
    by_hand.rows = [*by_hand.rows[BATCH:], *written]
    assert abs(other(batch).loss.item() - by_hand(*made["views"]).item()) > 1e-2


def test_only_the_predictions_learn(method: Method) -> None:
    """3.002588 for three vectors by hand; neither look-up nor memory gets a gradient."""
    p = double([A, B]).requires_grad_()
    z = p.detach().clone().requires_grad_()
    bank = double([Q4]).requires_grad_()
    loss = method.run({"projector": z, "predictor": p, "queue": bank}, ["loss"])["loss"]
    assert loss.item() == pytest.approx(3.002588, abs=1e-6)
    loss.backward()
    assert z.grad is None
    assert bank.grad is None
    assert p.grad is not None
    assert (p.grad.abs().sum(-1) > 0).all()  # negatives learn too
    scaled = method.run({"projector": z * 7, "predictor": p, "queue": bank}, ["loss"])["loss"]
    assert scaled.item() == pytest.approx(loss.item())


def test_sizes_of_the_published_heads() -> None:
    """Layers of the paper's section 4.1; of the projector's without biases, as norms follow."""
    sizes = joint.sizes_of("nnclr")
    assert sizes.parameters["encoder"] == 23_508_032
    assert sizes.parameters["projector"] == 8_921_600
    assert sizes.parameters["predictor"] == 2_109_696
    assert sizes.shapes["queue", "items"] == (1, 98304, 256)


def test_the_recipe() -> None:
    """Section 4.1 of the paper; no code was released."""
    joint.require_lars_of_4096_images("nnclr", "post", 4.8, 1e-6)
