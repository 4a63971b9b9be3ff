"""DINOv2 as a graph against DINOv2 by hand, its golden numbers, and its terms one at a time."""

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
from sslgraph.train_spec import LearningRate
from tests.methods.dinov2_by_hand import Network, Trainer
from tests.methods.distilled import (
    RATE,
    RUN,
    Pairs,
    batch_of,
    cosines,
    exact,
    in_float64,
    numbers_at,
    positions_in_float64,
    require_equal,
    require_equal_step,
    same_parameters,
    updater_of,
    waves,
)

SEED, BATCH, CLIP = 3, 6, 0.05
ARGS = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 2}
SIZES = {"hidden": 24, "dim": 16, "patch_dim": 12, "count": 20}
FED = ("crops.global", "crops.local", "masks")
HEAD: dict[str, Any] = {"hidden": [24, 24]}
SMALL: dict[str, Any] = {
    "vars.arch": "vit_tiny_patch16_224",
    "vars.patch": 4,
    "vars.k": 20,
    "nodes.crops.crops.global.size": 16,
    "nodes.crops.crops.local": {"size": 8, "views": 3, "scale": [0.05, 0.32]},
    "nodes.encoder.args": {**ARGS, "init_values": 0.5},
    "nodes.encoder.drop_path": 0,
    "nodes.head": {**HEAD, "out": 16},
    "nodes.patch_head": {**HEAD, "out": 12},
    "train.lr": RATE,
    "train.clip.norm": CLIP,
    "train.epoch": None,
    "train.amp": "none",
}


@pytest.fixture
def method() -> Method:
    return compiled()


def compiled(preset: str | None = None, **changes: Any) -> Method:
    return in_float64("dinov2", {**SMALL, **changes}, SEED, RUN, preset=preset)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return batch_of(BATCH, 20)


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    student = Network("vit_tiny_patch16_224", {**ARGS, "init_values": 0.5}, SIZES).double()
    for ours, theirs in both_heads(method.nodes, student):
        theirs.data.copy_(ours.data)
    return Trainer(student, CLIP)


def both_heads(nodes: Any, hand: Network) -> Pairs:
    """Each parameter beside its own by hand."""
    encoder: Any = nodes["encoder"]
    yield from same_parameters(encoder.model, hand.backbone)
    yield encoder.mask_token, hand.mask_token
    for head, last, theirs in (
        ("head", "scores", hand.head),
        ("patch_head", "patch_scores", hand.patch_head),
    ):
        yield from same_parameters(nodes[head].layers, theirs.mlp)
        weight = theirs.last.parametrizations.weight
        yield from ((nodes[last].g, weight.original0), (nodes[last].v, weight.original1))


def test_three_steps_are_equal(
    method: Method,
    by_hand: Trainer,
    batch: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss, its three terms, gradients, weights and both teachers, from the same views and masks.

    The last layers stand still for the first epoch, while their moments gather.
    """
    positions_in_float64(monkeypatch)
    nodes: Any = method.nodes
    slow = {**dict(nodes["teacher"].members), **dict(nodes["patch_teacher"].members)}
    last = nodes["patch_scores"]
    assert not nodes["encoder"].mask_token.any()  # as in the released code
    before = last.v.detach().clone()
    updater = updater_of(method, SEED, RUN)
    for step in range(3):
        numbers = numbers_at(step, decay=0.2, momentum=0.994)
        numbers.temperature = 0.04 + 0.03 * step / 60  # 30 epochs of two steps
        batch["index"] += BATCH
        large, small, masks = method.run({}, FED, batch).values()
        assert masks.any()
        assert not masks.flatten(0, 1).any(1).all()  # some crops stay whole
        loss = by_hand.forward(large, small, masks, numbers.temperature)
        by_hand.backward(loss)
        found = require_equal_step(
            updater,
            batch,
            step,
            {"": loss, **by_hand.terms},
            pairs=lambda: both_heads(nodes, by_hand.student),
            update=partial(by_hand.update, numbers),
            slow=lambda: both_heads(slow, by_hand.teacher),
        )
        assert found > 40
        assert torch.equal(last.v, before) == numbers.frozen


def test_pairs_and_the_batch_of_the_paper() -> None:
    plan = make_plan(sslgraph.load("dinov2"))
    assert len(plan.step("dino").pairs) == 18
    assert plan.step("ibot").pairs == ((0, 0), (1, 1))
    rate = plan.graph.train.lr.scaled(plan.graph.train.batch_size)
    assert rate == pytest.approx(3.4641e-4, rel=1e-5)
    # ViT-L/16 on ImageNet-1k: base 0.004 and batches of 2048 (dinov2/configs/ssl_default_config)
    assert LearningRate(base=0.004, per="sqrt 1024").scaled(2048) == pytest.approx(0.00565685)


@pytest.mark.parametrize("only", ["dino", "ibot"])
def test_a_term_alone_checks_and_prunes(only: str, batch: dict[str, Tensor]) -> None:
    """What the other term needs is left out, with a warning that says what."""
    others = {f"minimize.{name}": None for name in ("dino", "ibot", "koleo") if name != only}
    method = compiled(**others)
    kept = {step.name for step in method.plan.steps}
    patches = {"patch_head", "patch_scores", "patch_teacher", "patch_target", "hidden", "seen"}
    crops = {"local", "target", "dino"}
    gone = {"dino": patches | {"masks"}, "ibot": crops}[only]
    left = kept & (patches | crops)
    assert not left & gone
    step = method(batch)
    torch.autograd.backward(step.loss)
    assert list(step.terms) == [only]


def test_centers_in_the_place_of_sinkhorn(batch: dict[str, Tensor]) -> None:
    """The center of patches is the mean over hidden ones alone."""
    method = compiled(preset="centering")
    logits, weight = method.run({}, ["patch_teacher", "seen.weight"], batch).values()
    method(batch)
    center: Any = method.nodes["patch_center"].center
    require_equal([(center[0], logits[weight > 0].mean(0) / 10)])


def test_golden_hidden_patches() -> None:
    """The patch loss and center of the published class (dinov2/loss/ibot_patch_loss.py).

    Its flat list of hidden patches, weighted by image, gives iBOT's loss; its center is of hidden
    patches alone, where iBOT's is of all.
    """
    masks = torch.tensor([[[1, 0, 0, 1], [0, 0, 0, 0]], [[1, 1, 1, 0], [0, 0, 0, 1]]]).bool()
    gather = make_node("gather_tokens")
    student, weight = gather(waves(2, 49, 2, 2, 4, 3), masks)
    teacher, _ = gather(cosines(2, 49, 2, 2, 4, 3), masks)
    # those of the released list; it divides by 4 crops where the mean is over 2 views of 2 images
    weights = [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1]
    assert (2 * weight[weight > 0]).tolist() == pytest.approx(weights)
    center = exact("center", {"K": 3}, momentum=0.9)
    settings = sslgraph.load("dinov2").nodes["ibot"].settings
    target = exact("sharpen", temperature=0.07)(center(teacher))
    loss = exact("soft_cross_entropy", **settings)(student, target, None, weight.double())
    assert loss.item() == pytest.approx(3.659431056937, rel=1e-7)  # the weights are float32
    with torch.no_grad():
        center.write(x=teacher, weight=weight)
    found = [-0.011182858, -0.015624116, -0.005700635]
    assert center.center[0].tolist() == pytest.approx(found, abs=1e-9)


def test_the_teacher_sees_no_mask(method: Method, batch: dict[str, Tensor]) -> None:
    """Masks choose which of its patches are targets; what it makes of a crop is the same."""
    full = torch.ones(2, BATCH, 16, dtype=torch.bool)
    full[..., 3] = False
    wanted = ["teacher", "teacher.encoder.tokens", "encoder.tokens", "local.embedding"]
    found = [method.run({"masks": masks}, wanted, batch) for masks in (full, full & False)]
    for name, same in zip(wanted, (True, True, False, True), strict=True):
        assert torch.equal(found[0][name], found[1][name]) == same, name


def test_what_fills_up_the_rows_of_hidden_patches_does_not_count(
    method: Method, batch: dict[str, Tensor]
) -> None:
    """Padding may hold anything: loss, gradients and targets of the true rows stay."""
    made = method.run({}, ["patch_scores", "patch_teacher", "hidden.weight"], batch)
    padding = (made["hidden.weight"] == 0)[..., None]
    assert 0 < padding.sum() < padding.numel()
    found = []
    for fill in (0.0, 5.0):
        logits = made["patch_scores"].detach().masked_fill(padding, fill).requires_grad_()
        fed = {
            "patch_scores": logits,
            "patch_teacher": made["patch_teacher"].masked_fill(padding, fill),
        }
        loss = method.run(fed, ["ibot"], batch)["ibot"]
        torch.autograd.backward(loss)
        found.append((loss, logits.grad))
    for first, second in zip(*found, strict=True):
        assert first is not None
        assert second is not None
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-15)
