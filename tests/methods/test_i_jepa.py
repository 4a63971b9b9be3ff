"""I-JEPA as a graph against I-JEPA written by hand, and the numbers of its recipe."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate, number_at
from tests.methods.i_jepa_by_hand import IJepa, make_masks, make_views

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
    """Five smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, 74)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(BATCH * 3).view(BATCH, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


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


def batch(images: Tensor, step: int = 0) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(step * BATCH, (step + 1) * BATCH)}


def masks_of(step: int) -> Any:
    return make_masks(range(step * BATCH, (step + 1) * BATCH), BATCH, SEED, SIDE, 4)


def places(mask: Tensor) -> list[int]:
    found: list[int] = mask.nonzero().flatten().tolist()
    return found


def test_views_and_masks_are_those_of_the_documented_formula(compiled: Any, images: Tensor) -> None:
    made = compiled.run({}, ["view"], batch(images))
    assert torch.allclose(
        made["view"][0], make_views(images.float() / 255, SEED, 64), rtol=0, atol=1e-6
    )
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
    named = list(_pairs(method, by_hand))
    descents = [
        torch.optim.SGD([pair[side] for _, *pair in named], 0.1, momentum=0.9) for side in range(2)
    ]
    for step in range(3):
        views = make_views(images.float() / 255, SEED + step, 64).double()
        ours = method.run({"view": views[None]}, ["loss"], batch(images, step))["loss"]
        theirs = by_hand(views, masks_of(step))
        assert torch.allclose(ours, theirs, rtol=1e-9)
        for descent, loss in zip(descents, (ours, theirs), strict=True):
            descent.zero_grad()
            loss.backward()
        for name, mine, other in named:
            assert mine.grad is not None, name
            assert other.grad is not None, name
            assert torch.allclose(mine.grad, other.grad, rtol=1e-7, atol=1e-10), name
        assert all(p.grad is None for p in method.nodes["teacher"].parameters())
        for descent in descents:
            descent.step()
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
    theirs = by_hand(make_views(images.float() / 255, SEED, 64), masks_of(0))
    assert not torch.allclose(wrong(batch(images)).loss, theirs, rtol=1e-3)


def test_the_teacher_sees_all_and_the_student_the_context(compiled: Any, images: Tensor) -> None:
    """What is hidden from the context changes targets alone."""
    fetch = ["view", "blocks.context", "predictor", "targets", "encoder.tokens", "teacher.tokens"]
    made = compiled.run({}, fetch, batch(images))
    seen = len(masks_of(0).context[0])
    assert made["encoder.tokens"].shape == (1, BATCH, seen, 64)
    assert made["teacher.tokens"].shape == (1, BATCH, 64, 64)
    assert made["predictor"].shape == made["targets"].shape == (4, BATCH, 9, 64)
    hidden = made["blocks.context"].view(1, BATCH, 1, 8, 8)
    hidden = hidden.repeat_interleave(8, 3).repeat_interleave(8, 4)
    changed = torch.where(hidden, made["view"].flip(3, 4), made["view"])
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
    """At 10 steps an epoch; the published code counts its steps from 1."""
    spec = compiled.graph.train
    assert (spec.optimizer, spec.betas, spec.clip, spec.epochs) == (
        "adamw",
        (0.9, 0.999),
        None,
        300,
    )
    horizon = Horizon(total_steps=3000, steps_per_epoch=10)
    rates = {1: 2.02e-4, 200: 6e-4, 400: 1e-3, 1700: 5.005e-4, 3000: 1e-6}
    decays = {1: 0.0400001, 200: 0.0439335, 400: 0.0555618, 1700: 0.257424, 3000: 0.4}
    momenta = {0: 0.996, 199: 0.9962653, 399: 0.996532, 1699: 0.9982653, 2999: 0.9999987}
    full = sslgraph.load("i_jepa").train
    for step, rate in rates.items():
        found = learning_rate(full.lr, full.batch_size, step, horizon)
        assert found == pytest.approx(rate, rel=1e-6)
        assert number_at(full.weight_decay, step, horizon) == pytest.approx(decays[step], abs=5e-7)
    (hand,) = compiled.hands()
    for step, momentum in momenta.items():
        assert hand.schedule.value(step, 3000, 10) == pytest.approx(momentum, abs=6e-8)
    groups = parameter_groups(compiled, compiled.parameters_by_node(), spec, {}, horizon)
    without = [group for group in groups if group.rule.weight_decay == 0]
    axes = dict(compiled.named_parameters())
    for group in groups:
        flat = {axes[f"nodes.{name}"].ndim <= 1 for name in group.names}
        assert flat == {group in without}


def _pairs(method: Any, by_hand: IJepa) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """Every trained parameter of the graph and the one by hand."""
    theirs = {k: p for k, p in by_hand.named_parameters() if p.requires_grad}
    for node, prefix in (("encoder", "encoder."), ("predictor", "")):
        for name, parameter in method.nodes[node].named_parameters():
            if parameter.requires_grad:
                yield name, parameter, theirs.pop(prefix + name.removeprefix("model."))
    assert not theirs
