"""SimCLR as a graph against SimCLR written by hand: equal to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from tests.methods.simclr_by_hand import SimCLR, make_views

SEED = 3
SMALL = {"vars.arch": "test_resnet", "vars.size": 24, "vars.hidden": 32, "vars.dim": 16}
VIEW = {
    "size": 24,
    "crop": (0.08, 1.0),
    "interpolation": "bicubic",
    "jitter": (0.8, 0.8, 0.8, 0.2),
    "blur": (0.1, 2.0),
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Twelve smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, 28)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(12 * 3).view(12, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


@pytest.fixture(scope="module")
def method() -> Any:
    return sslgraph.compile(sslgraph.load("simclr", set=SMALL), seed=SEED)


@pytest.fixture(scope="module")
def by_hand(method: Any) -> SimCLR:
    width = method.nodes["projector"].layers[0].in_features
    hand = SimCLR("test_resnet", width, 32, 16, temperature=0.1)
    hand.encoder.load_state_dict(method.nodes["encoder"].model.state_dict())
    hand.projector.load_state_dict(method.nodes["projector"].layers.state_dict())
    return hand.train()


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    made = method.run({"batch.image": images}, ["views"], {"index": torch.arange(12)})["views"]
    expected = make_views(images.float() / 255, SEED, "views", VIEW)
    assert torch.equal(made.flatten(0, 1), expected)


def test_loss_and_gradients_are_equal_over_three_steps(
    method: Any, by_hand: SimCLR, images: Tensor
) -> None:
    pairs = [*_pairs(method, by_hand)]
    descents = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (method, by_hand)]
    for _ in range(3):
        step = method({"image": images, "index": torch.arange(12)})
        loss = by_hand(make_views(images.float() / 255, SEED, "views", VIEW))
        assert torch.equal(step.loss, loss)
        for descent, value in zip(descents, (step.loss, loss), strict=True):
            descent.zero_grad()
            value.backward()
        for name, ours, theirs in pairs:
            assert ours.grad is not None
            assert torch.equal(ours.grad, theirs.grad), name
        for descent in descents:
            descent.step()
        method.after_step()
    for ours, theirs in zip(
        method.nodes["encoder"].buffers(), by_hand.encoder.buffers(), strict=True
    ):
        assert torch.equal(ours, theirs)


def _pairs(method: Any, by_hand: SimCLR) -> Any:
    mine = method.nodes["encoder"].model, method.nodes["projector"].layers
    for ours, theirs in zip(mine, (by_hand.encoder, by_hand.projector), strict=True):
        names = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            yield name, parameter, names.pop(name)
        assert not names
