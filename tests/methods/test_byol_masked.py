"""BYOL with a masked online network as a graph against the same by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.method import Method
from tests.methods.byol_by_hand import make_views
from tests.methods.byol_masked_by_hand import MaskedByol, visible_places
from tests.methods.distilled import cosine
from tests.methods.joint import (
    RUN,
    in_float64,
    pictures,
    require_views,
    share_weights,
    sizes_of,
    updater_of,
    width_of,
)

SEED, BATCH, SIZE, PEAK = 6, 4, 48, 1e-3
PLACES, SEEN = 9, 4  # 48 pixels in patches of 16; int(9 / 2) stay
SMALL: dict[str, Any] = {
    "vars": {"arch": "test_vit", "size": SIZE, "hidden": 16, "dim": 8},
    "train.lr": {"peak": PEAK, "base": None, "per": None, "warmup": None},
    "train.batch_size": BATCH,
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(BATCH, 56)


@pytest.fixture
def method() -> Method:
    return in_float64("byol_masked", SMALL, SEED)


@pytest.fixture
def by_hand(method: Method) -> MaskedByol:
    hand = MaskedByol("test_vit", SIZE, 16, 8)
    share_weights(method, parts(hand))
    hand.make_target()
    return hand.double().train()


def parts(hand: MaskedByol) -> dict[str, Any]:
    return {"encoder": hand.encoder, "projector": hand.projector, "predictor": hand.predictor}


def batch(images: Tensor, step: int = 0) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(BATCH) + step * BATCH}


def visible(data: dict[str, Tensor]) -> list[Tensor]:
    return [visible_places(SEED, view, data["index"], PLACES, SEEN) for view in range(2)]


def beside(method: Method, hand: MaskedByol) -> list[tuple[Any, Any]]:
    """Modules of the graph with those by hand: what trains, then the slow copy."""
    nodes: Any = method.nodes
    members = nodes["target"].members
    return [
        (nodes["encoder"].model, hand.encoder),
        (nodes["projector"].layers, hand.projector),
        (nodes["predictor"].layers, hand.predictor),
        (members["encoder"].model, hand.target[0]),
        (members["projector"].layers, hand.target[1]),
    ]


def require_equal(pairs: list[tuple[Any, Any]], what: str) -> None:
    for ours, theirs in pairs:
        theirs_by_name = dict(getattr(theirs, what)())
        for name, value in getattr(ours, what)():
            torch.testing.assert_close(value, theirs_by_name.pop(name), rtol=1e-6, atol=1e-9)
        assert not theirs_by_name


def test_views_and_masks_are_those_of_the_documented_formula(
    method: Method, images: Tensor
) -> None:
    require_views(
        method, images, torch.stack(make_views(images.float() / 255, SEED, "views", SIZE))
    )
    mask = method.run({}, ["mask"], batch(images))["mask"]
    for rows, places in zip(mask, visible(batch(images)), strict=True):
        assert [(~row).nonzero().flatten().tolist() for row in rows] == places.tolist()


def test_three_steps_are_equal(method: Method, by_hand: MaskedByol, images: Tensor) -> None:
    """Loss, gradients, weights, the slow copy and its statistics, with AdamW as in the file."""
    assert width_of(method) == 64
    updater, descent = updater_of(method, SEED), by_hand.optimizer(weight_decay=0.1)
    trained = {id(p) for group in updater.groups for p in group.parameters}
    pairs = beside(method, by_hand)
    for step in range(3):
        data = batch(images, step)
        views = method.run({}, ["views"], data)["views"]
        descent.zero_grad()
        loss = by_hand.masked(views, visible(data))
        torch.autograd.backward(loss)
        done = updater.begin([data], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-7, atol=0)
        compared = set()
        for ours, theirs in pairs[:3]:
            found = dict(theirs.named_parameters())
            for name, parameter in ours.named_parameters():
                torch.testing.assert_close(parameter.grad, found[name].grad, rtol=1e-6, atol=1e-9)
                compared.add(id(parameter))
        assert compared == trained
        for group in descent.param_groups:
            group["lr"] = cosine(PEAK, 0.0, step / RUN.total_steps)
        descent.step()
        by_hand.follow(step, RUN.total_steps)
        assert updater.finish(done) == ""
        require_equal(pairs, "named_parameters")
        require_equal(pairs, "named_buffers")


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes.target.in": {"image": "views", "mask": "mask"}},
        {"nodes.encoder.in": {"image": "views", "mask": "mask.visible"}},
        {"nodes.loss.pairs": "same"},
    ],
)
def test_a_wrong_wire_is_seen(by_hand: MaskedByol, images: Tensor, wrong: dict[str, Any]) -> None:
    """The comparison can fail: a masked target, the other half of the patches, its own view."""
    other = in_float64("byol_masked", {**SMALL, **wrong}, SEED)
    views = other.run({}, ["views"], batch(images))["views"]
    theirs = by_hand.masked(views, visible(batch(images)))
    assert not torch.allclose(other(batch(images)).loss, theirs, rtol=1e-3)


def test_hidden_patches_are_never_computed(method: Method, images: Tensor) -> None:
    """By the online network; its copy sees every patch."""
    nodes: Any = method.nodes
    counts: dict[str, set[int]] = {"online": set(), "target": set()}
    for side, model in (
        ("online", nodes["encoder"].model),
        ("target", nodes["target"].members["encoder"].model),
    ):
        for block in model.blocks:
            block.register_forward_hook(
                lambda _, given, made, side=side: counts[side].add(made.shape[1])
            )
    method(batch(images))
    assert counts == {"online": {1 + SEEN}, "target": {1 + PLACES}}


def test_the_published_half_of_the_patches() -> None:
    """Of 14 x 14 places of a ViT-S at 224 pixels 98 stay."""
    sizes = sizes_of("byol_masked", set={"vars.arch": "vit_small_patch16_224"})
    assert sizes.shapes["encoder", "tokens"][2:] == (98, 384)
    assert sizes.shapes["target", "encoder.tokens"][2:] == (196, 384)
