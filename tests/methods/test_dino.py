"""DINO as a graph against DINO written by hand, its golden numbers, and its pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.plan import make_plan
from tests.methods.dino_by_hand import Group, Network, Trainer, make_crops
from tests.methods.distilled import (
    COUNT,
    DIM,
    HIDDEN,
    RATE,
    RUN,
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
    seed_drop_path,
    updater_of,
    waves,
)

SEED, CLIP = 3, 0.02
SMALL: dict[str, Any] = {
    "vars": {"arch": "test_vit", "hidden": HIDDEN, "dim": DIM, "prototypes": COUNT},
    "nodes.crops.crops.global.size": 48,
    "nodes.crops.crops.local": {"size": 32, "views": 3},
    "train.lr": RATE,
    "train.clip.norm": CLIP,
}
GROUPS = (
    Group("global", 2, 48, (0.4, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2)),
    Group("local", 3, 32, (0.05, 0.4), blur=(0.5,) * 3, solarize=(0.0,) * 3),
)


@pytest.fixture
def method() -> Method:
    return in_float64("dino", SMALL, SEED, RUN)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return batch_of(8, 56)


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    def make(drop: float) -> Network:
        return Network("test_vit", HIDDEN, DIM, COUNT, drop)

    return Trainer(*begun_alike(make, beside, method.nodes), CLIP)


def test_crops_are_those_of_the_documented_formula(
    method: Method, batch: dict[str, Tensor]
) -> None:
    """But for pixels that lie on the threshold of solarize, within rounding."""
    for group in GROUPS:
        name = f"crops.{group.name}"
        made = method.run({}, [name], batch)[name]
        expected = make_crops(batch["image"].float() / 255, SEED, "crops", group)
        assert ((made - expected).abs() < 1e-4).double().mean() > 0.9999


def test_three_steps_are_equal(
    method: Method,
    by_hand: Trainer,
    batch: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss, gradients, weights, teacher and center; prototypes frozen for the first epoch."""
    positions_in_float64(monkeypatch)
    updater = updater_of(method, SEED, RUN)
    nodes: Any = method.nodes
    last = nodes["prototypes"]
    before = last.v.detach().clone()
    clipped = 0
    for step in range(3):
        numbers = numbers_at(step)
        views = method.run({}, ["crops.global", "crops.local"], batch)
        seed_drop_path(SEED, step)
        loss = by_hand.forward(views["crops.global"], views["crops.local"], numbers.temperature)
        by_hand.backward(loss, numbers.frozen)
        clipped += require_equal_step(
            updater,
            batch,
            step,
            {"": loss},
            pairs=lambda: beside(nodes, by_hand.student),
            update=partial(by_hand.update, numbers),
            slow=lambda: beside(nodes["teacher"].members, by_hand.teacher),
            longer=CLIP,
        )
        require_equal([(nodes["center"].center[0], by_hand.center)])
        assert torch.equal(last.v, before) == numbers.frozen
    assert clipped > 10


STUDENT, TEACHER = waves(1, 24, 3, 2, 4), cosines(1, 16, 2, 2, 4)


def test_golden_numbers() -> None:
    """Loss, entropy of the teacher and center of the published class, and the loss after it.

    Of `DINOLoss` in main_dino.py.
    """
    center = exact("center", {"K": 4}, momentum=0.9)
    target = exact("sharpen", temperature=0.04)
    loss = exact("soft_cross_entropy", temperature=0.1)
    probs = target(center(TEACHER))
    entropy = -(probs * probs.log()).sum(-1).mean()
    assert entropy.item() == pytest.approx(0.008820244, abs=1e-9)
    first = loss(prediction=STUDENT, target=probs)
    assert first.item() == pytest.approx(7.986676305872, abs=1e-11)
    with torch.no_grad():
        center.write(x=TEACHER)
    after = [0.020507025, -0.003957772, -0.024783811, -0.022823729]
    assert center.center[0].tolist() == pytest.approx(after, abs=1e-9)
    second = loss(prediction=STUDENT, target=target(center(TEACHER)))
    assert second.item() == pytest.approx(7.992380943222, abs=1e-11)


def test_large_and_small_crops_share_the_loss_by_their_pairs() -> None:
    """DINOv2 and DINOv3 sum the two apart; with 2 pairs each they are halves of DINO's loss.

    The values, in single precision, are those of DINOv3's dinov3/loss/dino_clstoken_loss.py.
    """
    target = exact("sharpen", temperature=0.04)(TEACHER)
    large = exact("soft_cross_entropy", temperature=0.1)(STUDENT[:2], target).item()
    small = exact("soft_cross_entropy", temperature=0.1, pairs="all")(STUDENT[2:], target).item()
    assert (large, small) == pytest.approx((9.161390, 6.811964), rel=3e-7)
    assert (large + small) / 2 == pytest.approx(7.986676305872, abs=1e-11)


@pytest.mark.parametrize(("crops", "pairs"), [(8, 18), (10, 22), (0, 2)])
def test_pairs(crops: int, pairs: int) -> None:
    """Every crop meets both large ones, but no large crop itself."""
    changes: dict[str, Any] = {"nodes.crops.crops.local.views": crops}
    if crops == 0:
        changes = {"nodes.crops.crops.local": None, "nodes.local": None}
        changes["nodes.projector.in"] = "encoder.embedding"
        changes["nodes.crops.ops"] = [{"flip": 0.5}]
    plan = make_plan(sslgraph.load("dino", set=changes))
    found = plan.step("loss").pairs
    assert len(found) == pairs
    expected = {(i, j) for i in range(2 + crops) for j in range(2) if i != j}
    assert set(found) == expected


def test_the_order_of_references_changes_no_loss(batch: dict[str, Tensor]) -> None:
    changes = {**SMALL, "nodes.encoder.drop_path": 0}
    losses = []
    for order in (
        ["encoder.embedding", "local.embedding"],
        ["local.embedding", "encoder.embedding"],
    ):
        method = in_float64("dino", {**changes, "nodes.projector.in": order}, SEED, RUN)
        losses.append(method(batch).loss)
    require_equal([(losses[0], losses[1])])


def test_a_center_that_was_updated_before_its_use_cannot_be_written_down(
    method: Method, batch: dict[str, Tensor]
) -> None:
    """Wherever the node stands in the file, its write follows every read of the batch."""
    calls = [line for line in method.code.splitlines() if 'n["' in line]
    writes = [".write(" in line for line in calls]
    assert writes == sorted(writes)
    assert sum(writes) == 1
    document = sslgraph.load("dino", set=SMALL).document.data
    document["nodes"] = dict(reversed(list(document["nodes"].items())))
    for one in (method, in_float64(document, {}, SEED, RUN)):
        torch.manual_seed(0)
        step = one(batch)
        logits = one.run({}, ["teacher"], batch)["teacher"]
        center: Any = one.nodes["center"].center
        require_equal([(center[0], logits.mean((0, 1)) / 10)])
        torch.manual_seed(0)
        with torch.no_grad():
            center.zero_()
        require_equal([(one(batch).loss, step.loss)])
