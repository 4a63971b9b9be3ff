"""SupCon as a graph against SupCon written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods import joint
from tests.methods.sup_con_by_hand import SupCon, make_views
from tests.nodes.view_losses import A, B, double

SEED, BATCH = 13, 6
LABEL = [3, 0, 3, 1, 0, 3]
SMALL: dict[str, Any] = {
    "vars.arch": "resnet18",
    "vars.size": 16,
    "vars.hidden": 16,
    "vars.dim": 8,
    "train.batch_size": BATCH,
    "nodes.encoder.args.channels": [8, 16, 24, 32],
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return joint.pictures(BATCH, 20)


@pytest.fixture
def method() -> Method:
    return joint.in_float64("sup_con", SMALL, SEED)


def batch(images: Tensor, label: list[int] = LABEL) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(BATCH), "label": torch.tensor(label)}


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    joint.require_views(method, images, make_views(images.float() / 255, SEED, "views", 16))


def test_three_steps_are_equal(method: Method, images: Tensor) -> None:
    """Loss, gradients and weights, with SGD and decay of every parameter."""
    nodes: Any = method.nodes
    hand = SupCon(16, 8, nodes["loss"].temperature.item())
    assert hand.temperature == pytest.approx(0.1)
    parts = {"encoder": hand.encoder, "projector": hand.head}
    joint.share_weights(method, parts)
    hand = hand.double().train()
    pairs = joint.beside(method, parts)
    ours, theirs = ([p for pair in pairs for p in pair[side].parameters()] for side in (0, 1))
    assert len(ours) == len(list(method.parameters()))
    descents = [torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-4) for p in (ours, theirs)]
    for _ in range(3):
        views = method.run({}, ["views"], batch(images))["views"]
        losses = method(batch(images)).loss, hand(*views, LABEL)
        torch.testing.assert_close(*losses, rtol=1e-7, atol=0)
        for descent, loss in zip(descents, losses, strict=True):
            descent.zero_grad()
            torch.autograd.backward(loss)
        for a, b in zip(ours, theirs, strict=True):
            assert a.grad is not None
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)
        for descent in descents:
            descent.step()
        method.after_step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_labels_matter_and_their_names_do_not(method: Method, images: Tensor) -> None:
    value = method(batch(images)).loss.item()
    assert method(batch(images, [9, 2, 9, 5, 2, 9])).loss.item() == pytest.approx(value)
    assert abs(method(batch(images, [3, 0, 3, 1, 1, 3])).loss.item() - value) > 1e-3


def test_the_golden_loss(method: Method) -> None:
    """5.405366: the paper's 3.783756 times 0.1 / 0.07."""
    z = double([A, B])
    label = {"label": torch.tensor([0, 0, 1])}
    found = method.run({"projector": z}, ["loss"], label)["loss"].item()
    assert found == pytest.approx(5.405366, abs=2e-6)


def test_sizes_of_the_published_networks() -> None:
    """A 3 x 3 kernel has 64 x 3 x (49 - 9) weights less than that of 7 x 7."""
    sizes = joint.sizes_of("sup_con")
    assert sizes.parameters["encoder"] == 23_508_032 - 64 * 3 * 40
    assert sizes.parameters["projector"] == 4_458_624
    assert sizes.shapes["encoder", "tokens"][-2:] == (16, 2048)  # 32 pixels / 8


def test_a_model_without_such_first_layers_is_refused() -> None:
    change = {"vars.arch": "test_vit", "nodes.encoder.args": None}
    (problem,) = sslgraph.check(sslgraph.load("sup_con", set=change))
    assert "'stem: small' is for residual networks" in problem.title
    assert problem.span.text.strip() == "stem: small"


def test_the_learning_rate_of_the_recipe() -> None:
    """From 0.01 to 0.5 over ten epochs, then down to a thousandth of it.

    In the released `util.py` the cosine begins with the run and has one value an epoch, counted
    from 1; the warm-up ends on it. Here it begins where the warm-up ends, as in other recipes: the
    rates differ by less than a hundredth of the peak.
    """
    graph, epoch = sslgraph.load("sup_con"), 48
    expected = {0: 0.01, 5: 0.255, 10: 0.5, 505: 0.25025, 1000: 5e-4}
    steps = {number * epoch: rate for number, rate in expected.items()}
    joint.require_rates(graph, Horizon(1000 * epoch, epoch), steps)
    spec = graph.train
    for number in range(10, 1001):
        released = 5e-4 + (0.5 - 5e-4) * (1 + math.cos(math.pi * number / 1000)) / 2
        ours = learning_rate(spec.lr, 1024, number * epoch, Horizon(1000 * epoch, epoch))
        assert ours == pytest.approx(released, abs=0.005)
    assert (spec.epochs, spec.batch_size, spec.momentum) == (1000, 1024, 0.9)
    assert (spec.optimizer, spec.weight_decay, spec.no_decay) == ("sgd", 1e-4, [])
