"""iBOT as a graph against iBOT written by hand, its golden numbers, masks and heads."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.plan import make_plan
from tests.methods.distilled import (
    COUNT,
    DIM,
    HIDDEN,
    RATE,
    RUN,
    Pairs,
    batch_of,
    begun_alike,
    beside,
    cosines,
    exact,
    in_float64,
    numbers_at,
    positions_in_float64,
    require_equal,
    require_equal_step,
    same_parameters,
    seed_drop_path,
    updater_of,
    waves,
)
from tests.methods.ibot_by_hand import Network, Trainer

SEED, CLIP = 3, 0.02
SMALL: dict[str, Any] = {
    "vars": {"arch": "test_vit", "hidden": HIDDEN, "dim": DIM, "prototypes": COUNT},
    "nodes.crops.crops.global.size": 64,
    "nodes.crops.crops.local": {"size": 32, "views": 3},
    "nodes.masks.min_block": 2,
    "nodes.patch_target.temperature": {"linear": [0.05, 0.08], "over": "29 epochs", "by": "epoch"},
    "train.lr": RATE,
    "train.clip.norm": CLIP,
}


@pytest.fixture
def method() -> Method:
    return in_float64("ibot", SMALL, SEED, RUN)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return batch_of(8, 72)


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    def make(drop: float) -> Network:
        return Network("test_vit", HIDDEN, DIM, COUNT, drop)

    return Trainer(*begun_alike(make, with_token, method.nodes), CLIP)


def with_token(nodes: Any, hand: Network) -> Pairs:
    """Each parameter beside its own by hand."""
    yield from beside(nodes, hand)
    yield nodes["encoder"].mask_token, hand.hidden


def test_three_steps_are_equal(
    method: Method,
    by_hand: Trainer,
    batch: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses, gradients, weights, teacher and both centers, in float64; some images unmasked."""
    positions_in_float64(monkeypatch)
    nodes: Any = method.nodes
    assert not nodes["encoder"].mask_token.any()  # as in the released code
    updater = updater_of(method, SEED, RUN)
    for step in range(3):
        made = method.run({}, ["crops.global", "crops.local", "masks"], batch)
        large, small, masks = made["crops.global"], made["crops.local"], made["masks"]
        assert 0 < masks.any(-1).sum() < 16
        numbers = numbers_at(step)
        temperatures = (numbers.temperature, numbers.temperature + 0.01)
        seed_drop_path(SEED, step)
        classes, hidden = by_hand.losses(large, small, masks, temperatures)
        by_hand.backward(classes + hidden, numbers.frozen)
        long = require_equal_step(
            updater,
            batch,
            step,
            {"classes": classes, "hidden": hidden},
            pairs=lambda: with_token(nodes, by_hand.student),
            update=partial(by_hand.update, numbers),
            slow=lambda: with_token(nodes["teacher"].members, by_hand.teacher),
            longer=CLIP,
        )
        assert long > 3
        centers = (nodes["center"].center[0], nodes["patch_center"].center[0])
        require_equal(zip(centers, (by_hand.center, by_hand.patch_center), strict=True))


def test_a_comparison_across_views_is_seen(
    method: Method, by_hand: Trainer, batch: dict[str, Tensor]
) -> None:
    """The proof can fail: patches compared with those of the other crop are another loss."""
    wrong = in_float64("ibot", {**SMALL, "nodes.hidden.pairs": "cross"}, SEED, RUN)
    losses = []
    for one in (method, wrong):
        torch.manual_seed(0)
        losses.append(one(batch).terms["hidden"])
    assert not torch.allclose(losses[0], losses[1], rtol=1e-3)


def test_golden_numbers() -> None:
    """Both losses of the published class and both centers after it, of all patches."""
    student = {"classes": waves(1, 12, 2, 2, 3), "hidden": waves(2, 49, 2, 2, 4, 3)}
    student["classes"] = torch.cat([student["classes"], waves(5, 10, 1, 2, 3)])
    teacher = {"classes": cosines(1, 12, 2, 2, 3), "hidden": cosines(2, 49, 2, 2, 4, 3)}
    masks = torch.tensor([[[1, 0, 0, 1], [0, 0, 0, 0]], [[1, 1, 1, 0], [0, 0, 0, 1]]]).bool()
    loss: dict[str, float] = {}
    for name, temperature, node in (("classes", 0.04, "center"), ("hidden", 0.07, "patch_center")):
        settings = sslgraph.load("ibot").nodes
        center = exact("center", {"K": 3}, **settings[node].settings)
        target = exact("sharpen", temperature=temperature)
        compare = exact("soft_cross_entropy", **settings[name].settings)
        mask = masks if name == "hidden" else None
        probs = target(center(teacher[name]))
        loss[name] = compare(student[name], probs, mask).item()
        with torch.no_grad():
            center.write(x=teacher[name])
        assert center.center[0].tolist() == pytest.approx(GOLDEN_CENTERS[node], abs=1e-9)
    assert loss["classes"] == pytest.approx(8.514307474305, abs=1e-10)
    assert loss["hidden"] == pytest.approx(3.659431056937, abs=1e-10)


GOLDEN_CENTERS = {
    "center": [-0.004962765, -0.006838975, -0.002427463],
    "patch_center": [-0.004575631, -0.005295703, -0.001146931],
}


def test_the_teacher_sees_no_mask(method: Method, batch: dict[str, Tensor]) -> None:
    full = torch.ones(2, 8, 16, dtype=torch.bool)
    full[..., 3] = False
    wanted = ["teacher", "slow_patches", "encoder.tokens", "local.embedding"]
    found = []
    for masks in (full, full & False):
        torch.manual_seed(0)
        found.append(method.run({"masks": masks}, wanted, batch))
    for name, same in zip(wanted, (True, True, False, True), strict=True):
        assert torch.equal(found[0][name], found[1][name]) == same, name


def test_only_hidden_patches_count(method: Method, batch: dict[str, Tensor]) -> None:
    """Without masks the second loss is 0, and visible patches get no gradient from it."""
    none = torch.zeros(2, 8, 16, dtype=torch.bool)
    assert method.run({"masks": none}, ["hidden"], batch)["hidden"] == 0
    logits = torch.randn(2, 8, 16, COUNT, dtype=torch.float64).requires_grad_()
    made = method.run({"patches": logits}, ["hidden", "masks"], batch)
    torch.autograd.backward(made["hidden"])
    assert logits.grad is not None
    assert torch.equal((logits.grad != 0).any(-1), made["masks"])


def test_half_of_the_crops_are_masked() -> None:
    """As many places as the published generator hides: none, or 0.1 to 0.5 of 14 x 14."""
    settings: dict[str, Any] = dict(sslgraph.load("ibot").nodes["masks"].settings)
    masks = make_node("block_mask", axes={"H": 224, "W": 224}, **{**settings, "patch": 16})
    places = torch.arange(300).unsqueeze(0)
    hidden = masks(torch.zeros(1, 300, 3, 224, 224).expand(1, -1, -1, -1, -1), places)[0]
    counts = hidden.sum(-1).flatten()
    assert 0.4 < (counts > 0).double().mean() < 0.6
    assert counts.max() <= 98
    assert counts[counts > 0].double().mean() == pytest.approx(57.5, abs=4)  # 17.5 .. 97.5


def test_pairs() -> None:
    plan = make_plan(sslgraph.load("ibot"))
    assert len(plan.step("classes").pairs) == 22
    assert plan.step("hidden").pairs == ((0, 0), (1, 1))


def test_one_head_for_class_token_and_patches() -> None:
    """The published number of parameters, and no second last layer."""
    method = sslgraph.compile(sslgraph.load("ibot", set={"nodes.encoder.args": {"depth": 1}}))
    count = {name: sum(p.numel() for p in node.parameters()) for name, node in method.nodes.items()}
    assert count["projector"] + count["prototypes"] == 5_509_376 + 8192 * 257
    assert (count["patches"], count["slow_patches"]) == (0, 0)
    assert count["teacher"] == count["encoder"] + count["projector"] + count["prototypes"]


def test_an_own_last_layer_for_patches(batch: dict[str, Tensor]) -> None:
    """The preset: the layers below are shared, the prototypes of patches are their own."""
    method = in_float64("ibot", {**SMALL, "vars.patch_prototypes": 40}, SEED, RUN, preset="untied")
    step = method(batch)
    torch.autograd.backward(step.loss)
    patches, slow = method.nodes["patches"], method.nodes["slow_patches"]
    assert [tuple(p.shape) for p in patches.parameters()] == [(40, DIM), (40, 1)]
    assert all(p.grad is not None for p in patches.parameters())
    require_equal(same_parameters(slow, patches))
    classes: Any = method.nodes["prototypes"]
    assert classes.v.shape == (COUNT, DIM)
