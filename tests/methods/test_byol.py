"""BYOL as a graph against BYOL written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.train.rates import Horizon
from tests.methods.byol_by_hand import Byol, make_views
from tests.methods.joint import (
    named_pairs,
    pictures,
    require_bare_vectors,
    require_rates,
    require_views,
    share_weights,
    sizes_of,
    updater_of,
    width_of,
)

SEED, STEPS = 5, 40
SMALL = {"vars.arch": "test_resnet", "vars.size": 24, "vars.hidden": 32, "vars.dim": 16}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(8, 28)


@pytest.fixture
def method() -> Any:
    made = sslgraph.compile(sslgraph.load("byol", set=SMALL), seed=SEED)
    made.clock.set(total_steps=STEPS, steps_per_epoch=10)
    return made


@pytest.fixture
def by_hand(method: Any) -> Byol:
    hand = Byol("test_resnet", width_of(method), 32, 16)
    share_weights(method, _parts(hand))
    hand.make_target()
    return hand.train()


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    require_views(method, images, torch.stack(make_views(images.float() / 255, SEED, "views", 24)))


def test_loss_gradients_and_target_are_equal_over_three_steps(
    method: Any, by_hand: Byol, images: Tensor
) -> None:
    """In float64, from the same views; the momentum is a float32 number."""
    method.double()
    by_hand.double()
    pairs = named_pairs(method, _parts(by_hand))
    trained = [[p for p in m.parameters() if p.requires_grad] for m in (method, by_hand)]
    assert len({sum(p.numel() for p in side) for side in trained}) == 1
    descents = [torch.optim.SGD(side, 0.1, momentum=0.9) for side in trained]
    for step in range(3):
        views = torch.stack(make_views(images.float() / 255, SEED + step, "views", 24)).double()
        ours = method.run({"views": views}, ["loss"])["loss"]
        theirs = by_hand(*views)
        assert torch.allclose(ours, theirs, rtol=1e-7)
        for descent, loss in zip(descents, (ours, theirs), strict=True):
            descent.zero_grad()
            loss.backward()
        for name, mine, other in pairs:
            assert mine.grad is not None, name
            assert other.grad is not None, name
            assert _close(mine.grad, other.grad), name
        for descent in descents:
            descent.step()
        method.after_step()
        by_hand.follow(step, STEPS)
        slow = [p for m in method.nodes["target"].members.values() for p in m.parameters()]
        for copied, theirs in zip(slow, by_hand.target.parameters(), strict=True):
            assert _close(copied, theirs)
    buffers = [b for m in method.nodes["target"].members.values() for b in m.buffers()]
    for copied, theirs in zip(buffers, by_hand.target.buffers(), strict=True):
        assert _close(copied, theirs)  # the target's own statistics, from what it saw in training


def test_a_wrong_wire_is_seen(method: Any, by_hand: Byol, images: Tensor) -> None:
    """The comparison can fail: each view against its own target is another loss."""
    wrong = sslgraph.compile(
        sslgraph.load("byol", set={**SMALL, "nodes.loss.pairs": "same"}), seed=SEED
    )
    wrong.clock.set(total_steps=STEPS, steps_per_epoch=10)
    first, second = make_views(images.float() / 255, SEED, "views", 24)
    ours = wrong({"image": images, "index": torch.arange(8)}).loss
    assert not torch.allclose(ours, by_hand(first, second), rtol=1e-3)


def test_swapped_views_are_the_same_loss(method: Any) -> None:
    """Both directions are summed, so which view is called the first one says nothing."""
    views = torch.randn(2, 8, 3, 24, 24, generator=torch.Generator().manual_seed(0)).double()
    method.double()
    found = [method.run({"views": given}, ["loss"])["loss"] for given in (views, views.flip(0))]
    assert torch.allclose(found[0], found[1], rtol=1e-12)


def test_the_first_loss_is_that_of_unrelated_directions(images: Tensor) -> None:
    """About 4: predictions and targets of random heads are at right angles, give or take 1/16."""
    heads = {"vars.hidden": 4096, "vars.dim": 256}
    method = sslgraph.compile(sslgraph.load("byol", set={**SMALL, **heads}), seed=SEED)
    method.clock.set(total_steps=STEPS, steps_per_epoch=10)
    loss = method({"image": images, "index": torch.arange(8)}).loss.item()
    assert loss == pytest.approx(4, abs=4 * 4 / 16)


def test_sizes_of_the_published_heads() -> None:
    counts = sizes_of("byol").parameters
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
    """Of 1000 epochs in the released `configs/byol.py`: 0.2 for 256 images, so 3.2 for 4096."""
    graph = sslgraph.load("byol", set={"vars.arch": "test_resnet"})
    epoch, total = 312, 1000 * 312
    expected = {0: 0, 5 * epoch: 1.6, 10 * epoch: 3.2, 505 * epoch: 1.6, total: 0}
    require_rates(graph, Horizon(total, epoch), expected)
    spec = graph.train
    assert (spec.optimizer, spec.form, spec.weight_decay) == ("lars", "post", 1.5e-6)
    assert (spec.epochs, spec.batch_size, spec.momentum) == (1000, 4096, 0.9)
    require_bare_vectors(updater_of(sslgraph.compile(graph), 0))


def test_the_method_fits_on_a_screen() -> None:
    shown = sslgraph.load("byol").document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= 40


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def _parts(hand: Byol) -> dict[str, Any]:
    return {name: getattr(hand, name) for name in ("encoder", "projector", "predictor")}
