"""MAE as a graph against MAE written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import sslgraph
from tests.methods.joint import pictures, sizes_of
from tests.methods.mae_by_hand import Mae, orders
from tests.methods.masked import (
    adamw,
    batch,
    block_weights,
    paired,
    require_decay,
    require_recipe,
    require_whole_images,
    step_both,
    with_other_pixels,
)
from tests.methods.masked_by_hand import make_views
from tests.methods.simclr_by_hand import ROUNDING

SEED = 4
SMALL = {
    "vars.arch": "test_vit",
    "vars.size": 64,
    "nodes.decoder.width": 24,
    "nodes.decoder.depth": 2,
    "nodes.decoder.heads": 3,
}
RATIO = 0.75


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(6, 74)


def views_of(images: Tensor, seed: int = SEED) -> Tensor:
    return make_views(images.float() / 255, seed, 64, 0.2, "bicubic")


@pytest.fixture
def method() -> Any:
    made = sslgraph.compile(sslgraph.load("mae", set=SMALL), seed=SEED)
    made.clock.set(total_steps=100, steps_per_epoch=10)
    return made


@pytest.fixture
def by_hand(method: Any) -> Mae:
    hand = Mae("test_vit", 64, 16, 24, 2, 3)
    for part, state in {
        hand.encoder: method.nodes["encoder"].model.state_dict(),
        hand: {f"{k}": v for k, v in method.nodes["decoder"].state_dict().items()},
    }.items():
        assert not part.load_state_dict(state, strict=False).unexpected_keys
    return hand.train()


def test_views_and_masks_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    made = method.run({}, ["view", "mask"], batch(images))
    assert torch.allclose(made["view"][0], views_of(images), rtol=0, atol=ROUNDING)
    visible = orders(6, SEED, 16)[:, :4].sort(1).values
    for row, places in zip(made["mask"][0], visible, strict=True):
        assert (~row).nonzero().flatten().tolist() == places.tolist()


def test_loss_and_gradients_are_equal_over_three_steps(
    method: Any, by_hand: Mae, images: Tensor
) -> None:
    """Under AdamW as published: no decay of biases and of what has one axis."""
    method.double()
    by_hand.double()
    pairs = paired(method, by_hand, {"encoder": ("model.", "encoder."), "decoder": ("", "")})
    sides = [[(name, pair[side]) for name, pair in pairs.items()] for side in range(2)]
    descents = [adamw(side, lr=1e-3, betas=(0.9, 0.95)) for side in sides]
    for step in range(3):
        views = views_of(images, SEED + step).double()
        ours = method.run({"view": views[None]}, ["loss"], batch(images))["loss"]
        step_both(pairs, descents, (ours, by_hand(views, orders(6, SEED, 16), RATIO)))
        method.after_step()


def test_a_loss_over_all_patches_is_seen(method: Any, by_hand: Mae, images: Tensor) -> None:
    """The comparison can fail: without the mask the loss is the mean over visible ones too."""
    other = {**SMALL, "nodes.loss.in": {"prediction": "decoder", "target": "target"}}
    wrong = sslgraph.compile(sslgraph.load("mae", set=other), seed=SEED)
    theirs = by_hand(views_of(images), orders(6, SEED, 16), RATIO)
    assert torch.allclose(method(batch(images)).loss, theirs, rtol=1e-5)
    assert not torch.allclose(wrong(batch(images)).loss, theirs, rtol=1e-3)


def test_dropped_patches_are_never_computed(method: Any, images: Tensor) -> None:
    counts: list[int] = []
    for block in method.nodes["encoder"].model.blocks:
        block.register_forward_hook(lambda _, x, y: counts.append(y.shape[1]))
    method(batch(images))
    assert counts == [1 + 4] * len(method.nodes["encoder"].model.blocks)


def test_hidden_pixels_reach_the_loss_only_as_target(method: Any, images: Tensor) -> None:
    made = method.run({}, ["view", "mask", "decoder", "loss"], batch(images))
    changed = with_other_pixels(made["view"], made["mask"], 16)
    after = method.run({"view": changed}, ["decoder", "loss"], batch(images))
    assert torch.equal(after["decoder"], made["decoder"])
    assert not torch.allclose(after["loss"], made["loss"], rtol=1e-3)


def test_a_prediction_of_zero_has_the_loss_of_normalised_pixels(
    method: Any, images: Tensor
) -> None:
    """(n - 1) / n of the unbiased variance of n = 768 numbers: 0.9987."""
    zero = torch.zeros(1, 6, 16, 768)
    loss = method.run({"decoder": zero}, ["loss"], batch(images))["loss"]
    assert loss.item() == pytest.approx(767 / 768, abs=1e-5) == pytest.approx(0.9987, abs=1e-4)


def test_evaluation_sees_the_whole_image(method: Any, images: Tensor) -> None:
    require_whole_images(method, images)


@pytest.mark.parametrize(
    ("arch", "patch", "kept", "width", "depth", "heads"),
    [
        ("vit_base_patch16_224", 16, 49, 768, 12, 12),
        ("vit_large_patch16_224", 16, 49, 1024, 24, 16),
        ("vit_huge_patch14_224", 14, 64, 1280, 32, 16),
    ],
)
def test_sizes_of_the_recipe(
    arch: str, patch: int, kept: int, width: int, depth: int, heads: int
) -> None:
    """A quarter of the places, encoders of `models_mae.py` in the released code, one decoder.

    Parameters are counted from the widths; the table of positions is there and does not train.
    """
    sizes = sizes_of("mae", set={"vars.arch": arch, "vars.patch": patch})
    places, pixels = (224 // patch) ** 2, 3 * patch**2
    assert sizes.shapes["encoder", "tokens"][2:] == (kept, width)
    assert sizes.shapes["encoder", "sequence"][2:] == (kept + 1, width)
    assert sizes.shapes["decoder", "y"][2:] == (places, pixels)
    expected = (pixels + 1) * width + width + depth * block_weights(width) + 2 * width
    assert sizes.parameters["encoder"] - (places + 1) * width == expected
    layers = (width + 1) * 512 + 512 + 8 * block_weights(512) + 2 * 512 + 513 * pixels
    assert sizes.parameters["decoder"] == layers
    with torch.device("meta"):
        made: Any = timm.create_model(arch, num_classes=0)
    assert made.blocks[0].attn.num_heads == heads


def test_learning_rate_and_decay_of_the_recipe(method: Any) -> None:
    """1.5e-4 for 256 images, without clipping (`main_pretrain.py` in the released code)."""
    spec = sslgraph.load("mae").train
    rates = {0: 0, 20: 1.2e-3, 40: 2.4e-3, 420: 1.2e-3, 800: 0}
    require_recipe(spec, rates=rates, epochs=800, batch_size=4096, betas=(0.9, 0.95))
    require_decay(method, spec, "encoder.model.cls_token", "decoder.mask_token")
    trained = {name for named in method.parameters_by_node().values() for name in named}
    assert not any("pos_embed" in name for name in trained)


def test_first_weights(method: Any) -> None:
    """`initialize_weights` of the released code: Xavier, zeros, and tokens from N(0, 0.02)."""
    decoder = method.nodes["decoder"]
    for layer in (m for m in decoder.modules() if isinstance(m, nn.Linear)):
        assert not layer.bias.any()
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.5)
    qkv = method.nodes["encoder"].model.blocks[0].attn.qkv.weight
    assert 0.9 * (6 / (4 * 64)) ** 0.5 < qkv.abs().max() <= (6 / (4 * 64)) ** 0.5
