"""BYOL as a graph against BYOL written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from tests.methods.byol_by_hand import Byol, make_views

SEED, STEPS = 5, 40
SMALL = {"vars.arch": "test_resnet", "vars.size": 24, "vars.hidden": 32, "vars.dim": 16}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Eight smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, 28)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(8 * 3).view(8, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


@pytest.fixture
def method() -> Any:
    made = sslgraph.compile(sslgraph.load("byol", set=SMALL), seed=SEED)
    made.clock.set(total_steps=STEPS, steps_per_epoch=10)
    return made


@pytest.fixture
def by_hand(method: Any) -> Byol:
    width = method.nodes["projector"].layers[0].in_features
    hand = Byol("test_resnet", width, 32, 16)
    hand.encoder.load_state_dict(method.nodes["encoder"].model.state_dict())
    hand.projector.load_state_dict(method.nodes["projector"].layers.state_dict())
    hand.predictor.load_state_dict(method.nodes["predictor"].layers.state_dict())
    hand.make_target()
    return hand.train()


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    made = method.run({"batch.image": images}, ["views"], {"index": torch.arange(8)})["views"]
    expected = torch.stack(make_views(images.float() / 255, SEED, "views", 24))
    assert torch.allclose(made, expected, rtol=0, atol=1e-6)


def test_loss_gradients_and_target_are_equal_over_three_steps(
    method: Any, by_hand: Byol, images: Tensor
) -> None:
    """In float64, from the same views; the momentum is a float32 number."""
    method.double()
    by_hand.double()
    pairs = list(_pairs(method, by_hand))
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
            assert _close(mine.grad, other.grad), name
        for descent in descents:
            descent.step()
        method.after_step()
        by_hand.follow(step, STEPS)
        slow = [p for m in method.nodes["target"].members.values() for p in m.parameters()]
        for mine, other in zip(slow, by_hand.target.parameters(), strict=True):
            assert _close(mine, other)
    buffers = [b for m in method.nodes["target"].members.values() for b in m.buffers()]
    for mine, other in zip(buffers, by_hand.target.buffers(), strict=True):
        assert _close(mine, other)  # the target's own statistics, from what it saw in training


def test_a_wrong_wire_is_seen(method: Any, by_hand: Byol, images: Tensor) -> None:
    """The comparison can fail: each view against its own target is another loss."""
    wrong = sslgraph.compile(
        sslgraph.load("byol", set={**SMALL, "nodes.loss.pairs": "same"}), seed=SEED
    )
    wrong.clock.set(total_steps=STEPS, steps_per_epoch=10)
    first, second = make_views(images.float() / 255, SEED, "views", 24)
    ours = wrong({"image": images, "index": torch.arange(8)}).loss
    assert not torch.allclose(ours, by_hand(first, second), rtol=1e-3)


def test_sizes_of_the_published_heads() -> None:
    method = sslgraph.compile(sslgraph.load("byol"))
    counts = {
        name: sum(p.numel() for p in node.parameters()) for name, node in method.nodes.items()
    }
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


def test_the_method_fits_on_a_screen() -> None:
    shown = sslgraph.load("byol").document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= 40


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def _pairs(method: Any, by_hand: Byol) -> Any:
    parts = {
        "encoder": (method.nodes["encoder"].model, by_hand.encoder),
        "projector": (method.nodes["projector"].layers, by_hand.projector),
        "predictor": (method.nodes["predictor"].layers, by_hand.predictor),
    }
    for part, (ours, theirs) in parts.items():
        names = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            yield f"{part}.{name}", parameter, names.pop(name)
        assert not names
