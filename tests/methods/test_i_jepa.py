"""I-JEPA as a graph against I-JEPA written by hand, and the numbers of its recipe."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.nodes.base import Context
from sslgraph.registry import find
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate, number_at
from tests.methods.i_jepa_by_hand import IJepa, make_masks
from tests.methods.joint import pictures, sizes_of
from tests.methods.masked import (
    batch,
    block_weights,
    paired,
    require_recipe,
    step_both,
    with_other_pixels,
)
from tests.methods.masked_by_hand import make_views
from tests.methods.simclr_by_hand import ROUNDING

SEED, STEPS, BATCH, SIDE = 4, 50, 5, 8
SMALL = {
    "vars.arch": "test_vit",
    "vars.size": 64,
    "vars.patch": 8,
    "nodes.encoder.args.patch_size": 8,
    "nodes.blocks.min_keep": 4,
    "nodes.predictor.width": 24,
    "nodes.predictor.depth": 2,
    "nodes.predictor.heads": 3,
    "train.batch_size": BATCH,
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(BATCH, 74)


def views_of(images: Tensor, seed: int = SEED) -> Tensor:
    """Neither flipped nor changed in colour."""
    return make_views(images.float() / 255, seed, 64, 0.3, "bilinear", flip=False)


def compiled_with(change: dict[str, Any]) -> Any:
    """With weights that are all in use: no shift is 0, and norms do not undo each other."""
    made: Any = sslgraph.compile(sslgraph.load("i_jepa", set={**SMALL, **change}), seed=SEED)
    made.clock.set(total_steps=STEPS, steps_per_epoch=10)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name in ("encoder", "predictor"):
            for value in made.nodes[name].parameters():
                if value.requires_grad:
                    value.add_(torch.randn(value.shape, generator=generator), alpha=0.2)
        slow = made.nodes["teacher"].members["encoder"]
        slow.load_state_dict(made.nodes["encoder"].state_dict())
    return made


@pytest.fixture(scope="module")
def compiled() -> Any:
    return compiled_with({})


@pytest.fixture
def method(compiled: Any) -> Any:
    return copy.deepcopy(compiled)


@pytest.fixture
def by_hand(method: Any) -> IJepa:
    hand = IJepa("test_vit", 64, 8, 24, 2, 3)
    hand.encoder.load_state_dict(method.nodes["encoder"].model.state_dict())
    wrong = hand.load_state_dict(method.nodes["predictor"].state_dict(), strict=False)
    assert not wrong.unexpected_keys
    hand.make_teacher()
    return hand.train()


def masks_of(step: int) -> Any:
    return make_masks(range(step * BATCH, (step + 1) * BATCH), BATCH, SEED, SIDE, 4)


def places(mask: Tensor) -> list[int]:
    found: list[int] = mask.nonzero().flatten().tolist()
    return found


def test_views_and_masks_are_those_of_the_documented_formula(compiled: Any, images: Tensor) -> None:
    made = compiled.run({}, ["view"], batch(images))
    assert torch.allclose(made["view"][0], views_of(images), rtol=0, atol=ROUNDING)
    sizes = set()
    for step in range(6):
        made = compiled.run({}, ["blocks.context", "blocks.targets"], batch(images, step))
        expected = masks_of(step)
        assert [places(~row) for row in made["blocks.context"][0]] == expected.context
        found = [[places(row) for row in image] for image in made["blocks.targets"].unbind(1)]
        assert found == expected.targets
        sizes.add((len(expected.context[0]), len(expected.targets[0][0])))
    assert len(sizes) > 3  # of each batch its own


def test_loss_gradients_and_teacher_are_equal_over_three_steps(
    method: Any, by_hand: IJepa, images: Tensor
) -> None:
    """In float64, from other masks in each step; the momentum is a float32 number."""
    method.double()
    by_hand.double()
    pairs = paired(method, by_hand, {"encoder": ("model.", "encoder."), "predictor": ("", "")})
    sides = [[pair[side] for pair in pairs.values()] for side in range(2)]
    descents = [torch.optim.SGD(side, 0.1, momentum=0.9) for side in sides]
    for step in range(3):
        views = views_of(images, SEED + step).double()
        ours = method.run({"view": views[None]}, ["loss"], batch(images, step))["loss"]
        step_both(pairs, descents, (ours, by_hand(views, masks_of(step))))
        assert all(p.grad is None for p in method.nodes["teacher"].parameters())
        method.after_step()
        by_hand.follow(step, STEPS)
        slow = method.nodes["teacher"].members["encoder"].model.parameters()
        for mine, other in zip(slow, by_hand.teacher.parameters(), strict=True):
            assert torch.allclose(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"nodes.targets.in": {"x": "teacher.tokens", "mask": "blocks.targets"}},  # without norm
        {"nodes.loss.beta": 2.0},
        {"nodes.loss.pairs": "cross"},
        {"nodes.blocks.context_block.overlap": True},
    ],
    ids=["norm", "beta", "pairs", "overlap"],
)
def test_a_wrong_wire_or_setting_is_seen(
    by_hand: IJepa, images: Tensor, change: dict[str, Any]
) -> None:
    """The comparison can fail."""
    wrong = compiled_with(change)
    theirs = by_hand(views_of(images), masks_of(0))
    assert not torch.allclose(wrong(batch(images)).loss, theirs, rtol=1e-3)


def test_the_teacher_sees_all_and_the_student_the_context(compiled: Any, images: Tensor) -> None:
    """What is hidden from the context changes targets alone."""
    fetch = ["view", "blocks.context", "predictor", "targets", "encoder.tokens", "teacher.tokens"]
    made = compiled.run({}, fetch, batch(images))
    seen = len(masks_of(0).context[0])
    assert made["encoder.tokens"].shape == (1, BATCH, seen, 64)
    assert made["teacher.tokens"].shape == (1, BATCH, 64, 64)
    assert made["predictor"].shape == made["targets"].shape == (4, BATCH, 9, 64)
    changed = with_other_pixels(made["view"], made["blocks.context"], 8)
    after = compiled.run({"view": changed}, fetch[2:4], batch(images))
    assert torch.equal(after["predictor"], made["predictor"])
    assert not torch.allclose(after["targets"], made["targets"], rtol=1e-2)
    mean, variance = made["targets"].mean(-1), made["targets"].var(-1, unbiased=False)
    assert torch.allclose(mean, torch.zeros(()), atol=1e-5)
    assert torch.allclose(variance, torch.ones(()), atol=1e-3)


def test_evaluation_is_of_the_teacher_and_of_the_whole_image(compiled: Any, images: Tensor) -> None:
    made = compiled.outputs({"image": images})
    assert made["tokens"].shape == (1, BATCH, 64, 64)
    assert torch.allclose(made["embedding"], made["tokens"].mean(2), atol=1e-6)
    with compiled.evaluating():
        loss = compiled.run({}, ["loss"], batch(images))["loss"]
    assert loss.isfinite()


def test_schedules_of_the_recipe(compiled: Any) -> None:
    """At 10 steps an epoch, by the number of the step in the released code's schedules."""
    spec = sslgraph.load("i_jepa").train
    require_recipe(spec, rates={}, epochs=300)
    assert spec.amp == "bf16"
    horizon = Horizon(total_steps=3000, steps_per_epoch=10)
    rates = {1: 2.02e-4, 200: 6e-4, 400: 1e-3, 1700: 5.005e-4, 3000: 1e-6}
    decays = {1: 0.0400001, 200: 0.0439335, 400: 0.0555618, 1700: 0.257424, 3000: 0.4}
    momenta = {0: 0.996, 199: 0.9962653, 399: 0.996532, 1699: 0.9982653, 2999: 0.9999987}
    for step, rate in rates.items():
        found = learning_rate(spec.lr, spec.batch_size, step, horizon)
        assert found == pytest.approx(rate, rel=1e-6)
        assert number_at(spec.weight_decay, step, horizon) == pytest.approx(decays[step], abs=5e-7)
    (hand,) = compiled.hands()
    for step, momentum in momenta.items():
        assert hand.schedule.value(step, 3000, 10) == pytest.approx(momentum, abs=6e-8)
    groups = parameter_groups(compiled, compiled.parameters_by_node(), spec, {}, horizon)
    without = [group for group in groups if group.rule.weight_decay == 0]
    axes = dict(compiled.named_parameters())
    for group in groups:
        flat = {axes[f"nodes.{name}"].ndim <= 1 for name in group.names}
        assert flat == {group in without}


def test_the_step_between_ours_and_the_released_schedules() -> None:
    """There rate and decay move on before the first optimizer step, here behind it.

    Of 300 epochs of 625 steps that is never more than 1/25,000 of the way up to the peak, and for
    the decay not more than the steepest step of its half cosine. The momentum has no such step: it
    is taken from a generator that begins with 0.996 (`train.py` and `utils/schedulers.py`).
    """
    spec, run = sslgraph.load("i_jepa").train, Horizon(300 * 625, 625)
    for step in range(0, run.total_steps, 625):
        rate, moved = (learning_rate(spec.lr, 2048, step + more, run) for more in range(2))
        assert abs(moved - rate) <= 8e-4 / 25_000 * 1.001
        decay, moved = (number_at(spec.weight_decay, step + more, run) for more in range(2))
        assert 0 <= moved - decay <= 0.36 / 2 * math.pi / run.total_steps


def test_first_weights() -> None:
    """Of linear layers normal ones, 0.02: `init_model` in `helper.py` draws all of them again.

    What the models had divided by the root of 2 l in block l is lost by that.
    """
    method: Any = sslgraph.compile(sslgraph.load("i_jepa", set=SMALL), seed=SEED)
    for name in ("encoder", "predictor"):
        layers = [m for m in method.nodes[name].modules() if isinstance(m, nn.Linear)]
        assert len(layers) >= 4 * 2
        for layer in layers:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not layer.bias.any()


def test_sizes_of_the_recipe() -> None:
    """ViT-H/14 without a class token, and a predictor of 12 blocks of 384 with its 16 heads.

    Sizes are those of `configs/in1k_vith14_ep300.yaml` and `vision_transformer.py` in the released
    code; the largest block has 9 x 6 places.
    """
    sizes = sizes_of("i_jepa")
    assert sizes.shapes["teacher", "tokens"][2:] == (256, 1280)
    shape = sizes.shapes["predictor", "y"]
    assert shape == sizes.shapes["targets", "y"]
    assert (shape[0], shape[3]) == (4, 1280)
    assert shape[2] >= 9 * 6
    encoder = (3 * 14 * 14 + 1) * 1280 + 32 * block_weights(1280) + 2 * 1280
    assert sizes.parameters["encoder"] - 256 * 1280 == encoder  # positions do not train
    ends = 1281 * 384 + 384 + 2 * 384 + 385 * 1280  # in, mask token, norm, out
    assert sizes.parameters["predictor"] == ends + 12 * block_weights(384)
    settings: Any = sslgraph.load("i_jepa").nodes["predictor"].settings
    with torch.device("meta"):
        model: Any = timm.create_model("vit_huge_patch14_224", num_classes=0)
    assert settings["heads"] == model.blocks[0].attn.num_heads == 16


def test_masks_of_the_recipe() -> None:
    """On the grid of ViT-H/14, as `MaskCollator` of the released code makes them.

    Blocks have 15 to 20 % of the places, and the context what they leave of a square without the
    last row and column, which is the only one of at least 85 % that fits. The context of a batch
    has as few places as its smallest, so it shrinks with the batch.
    """
    settings: Any = sslgraph.load("i_jepa").nodes["blocks"].settings
    means = []
    for samples in (4, 16, 64):
        node: Any = find("multiblock_mask").module(
            axes={"H": 224, "W": 224}, context=Context("blocks", SEED, samples=samples), **settings
        )
        image = torch.zeros(1, 1, 1, 1, 1).expand(1, samples, 1, 224, 224)
        seen = []
        for number in range(30):
            index = torch.arange(number * samples, (number + 1) * samples)[None]
            context, targets = node(image, index)
            hidden, square = targets.any(0), ~context[0] | targets.any(0)
            assert targets.shape == (4, samples, 256)
            assert 35 <= int(targets.sum(-1).min()) <= int(targets.sum(-1).max()) <= 54
            assert not (~context[0] & hidden).any()
            assert not square.view(-1, 16, 16)[:, 15].any()
            assert not square.view(-1, 16, 16)[:, :, 15].any()
            seen.append(int((~context[0]).sum(-1)[0]))
        means.append(sum(seen) / len(seen))
    assert means[0] > means[1] + 5 > means[2] + 10
    assert means[1] == pytest.approx(82.5, abs=10)  # of the published collator, of 16 images
