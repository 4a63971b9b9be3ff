"""MAE with a contrastive term as a graph against the same by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from tests.methods.joint import pictures, sizes_of
from tests.methods.mae_contrast_by_hand import MaeContrast, orders, told_apart
from tests.methods.masked import adamw, batch, paired, step_both

SEED, BATCH, SIZE, PLACES, RATIO = 8, 5, 64, 16, 0.75
SMALL: dict[str, Any] = {
    "vars.arch": "test_vit",
    "vars.size": SIZE,
    "nodes.decoder": {"width": 24, "depth": 1, "heads": 3},
    "nodes.projector": {"hidden": [16], "out": 8},
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(BATCH, 74)


def compiled(**changes: Any) -> Any:
    """In float64, views too; a temperature of 0.1 is not that of float32."""
    made: Any = sslgraph.compile(
        sslgraph.load("mae_contrast", set={**SMALL, **changes}), seed=SEED
    ).double()
    made.nodes["view"].register_forward_hook(lambda node, given, views: views.double())
    made.nodes["contrast"].temperature = torch.tensor(0.1, dtype=torch.float64)
    made.clock.set(total_steps=100, steps_per_epoch=10)
    return made


@pytest.fixture
def method() -> Any:
    return compiled()


@pytest.fixture
def by_hand(method: Any) -> MaeContrast:
    hand = MaeContrast("test_vit", SIZE, 16, 24, 1, 3)
    hand.begin(16, 8)
    hand.encoder.load_state_dict(method.nodes["encoder"].model.state_dict(), strict=False)
    found = hand.load_state_dict(method.nodes["decoder"].state_dict(), strict=False)
    assert not found.unexpected_keys
    hand.projector.load_state_dict(method.nodes["projector"].layers.state_dict())
    return hand.double().train()


def drawn(data: dict[str, Tensor]) -> list[Tensor]:
    return [orders(SEED, view, data["index"], PLACES) for view in range(2)]


def test_each_view_has_a_mask_of_the_documented_formula(method: Any, images: Tensor) -> None:
    data = batch(images)
    masks = method.run({}, ["mask"], data)["mask"]
    assert masks.shape == (2, BATCH, PLACES)
    for mask, order in zip(masks, drawn(data), strict=True):
        visible = order[:, :4].sort(1).values
        assert [(~row).nonzero().flatten().tolist() for row in mask] == visible.tolist()


def test_three_steps_are_equal(method: Any, by_hand: MaeContrast, images: Tensor) -> None:
    """Loss, gradients, weights and running statistics, under AdamW as published for MAE."""
    renamed = {
        "encoder": ("model.", "encoder."),
        "decoder": ("", ""),
        "projector": ("layers.", "projector."),
    }
    pairs = paired(method, by_hand, renamed)
    sides = [[(name, pair[side]) for name, pair in pairs.items()] for side in range(2)]
    descents = [adamw(side, lr=1e-3, betas=(0.9, 0.95)) for side in sides]
    for step in range(3):
        data = batch(images, step)
        views = method.run({}, ["view"], data)["view"]
        ours = method(data).loss
        step_both(pairs, descents, (ours, by_hand.both(views, drawn(data), RATIO, 0.1)))
        method.after_step()
        for name, (mine, other) in pairs.items():
            assert torch.allclose(mine, other, rtol=1e-6, atol=1e-9), name
        statistics = by_hand.projector.state_dict()
        for name, value in method.nodes["projector"].layers.state_dict().items():
            torch.testing.assert_close(value, statistics[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimize.contrast": 1.0},
        {"train.batch_norm": {"per": "none"}},
        {"nodes.loss.in": {"prediction": "decoder", "target": "target"}},
        {"nodes.encoder.readout": "mean"},
    ],
)
def test_a_change_is_seen(by_hand: MaeContrast, images: Tensor, wrong: dict[str, Any]) -> None:
    """The comparison can fail: another weight, batch, mask or embedding is another loss."""
    other, data = compiled(**wrong), batch(images)
    views = other.run({}, ["view"], data)["view"]
    theirs = by_hand.both(views, drawn(data), RATIO, 0.1)
    assert not torch.allclose(other(data).loss, theirs, rtol=1e-5)


def test_the_contrast_of_embeddings_without_a_difference_is_that_of_chance(method: Any) -> None:
    """ln(2 B - 1), and 0 is as good as reached where views agree and images do not."""
    same = torch.ones(2, BATCH, 8, dtype=torch.float64)
    apart = torch.eye(8, dtype=torch.float64)[:BATCH].expand(2, -1, -1)
    for z, expected in ((same, math.log(2 * BATCH - 1)), (apart, math.log1p(8 * math.exp(-10)))):
        found = method.run({"projector": z}, ["contrast"])["contrast"].item()
        assert found == pytest.approx(expected, abs=1e-12)
        assert told_apart(*z).item() == pytest.approx(expected, abs=1e-12)


def test_sizes_of_the_graph() -> None:
    """ViT-B sees a quarter of both views; the head has 768 x 512 and 512 x 128 weights."""
    sizes = sizes_of("mae_contrast")
    assert sizes.shapes["encoder", "tokens"][0] == 2
    assert sizes.shapes["encoder", "tokens"][2:] == (49, 768)
    assert sizes.parameters["projector"] == 769 * 512 + 2 * 512 + 513 * 128
