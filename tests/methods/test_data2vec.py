"""data2vec as a graph against data2vec written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.nodes.base import make_node
from tests.methods.data2vec_by_hand import Data2Vec, make_views, target_of
from tests.methods.joint import pictures
from tests.methods.masked import (
    BEIT_BASE,
    TABLE,
    batch,
    paired,
    require_block_masks,
    require_blocks_of_beit,
    require_decay,
    require_first_weights_of_beit,
    require_recipe,
    step_both,
)

SEED = 4
TINY = {"embed_dim": 24, "depth": 4, "num_heads": 2, "init_values": 0.5}
SMALL = {
    "vars.size": 64,
    "vars.width": 24,
    "nodes.mask.patches": 11,
    "nodes.mask.min_block": 6,
    "nodes.encoder.drop_path": 0,
    "nodes.encoder.attention_drop": 0,
    **{f"nodes.encoder.args.{name}": value for name, value in TINY.items()},
    "nodes.teacher.taps": [2, 3, 4],
    "nodes.teacher.momentum": 0.9,
    "nodes.blocks.in": ["teacher.tap2", "teacher.tap3", "teacher.tap4"],
    "nodes.mean.in": ["blocks.0", "blocks.1", "blocks.2"],
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(6, 74)


def compiled(settings: dict[str, Any]) -> Any:
    """With weights that are all in use."""
    made: Any = sslgraph.compile(sslgraph.load("data2vec", set=settings), seed=SEED)
    made.clock.set(total_steps=100, steps_per_epoch=10)
    generator = torch.Generator().manual_seed(1)
    # a prediction near zero has the same error for every target of variance 1
    nn.init.normal_(made.nodes["predictor"].layers[0].weight, generator=generator)
    for name, parameter in made.nodes["encoder"].named_parameters():
        if "relative_position" in name:  # a table of zeros would hide a wrong order of places
            nn.init.normal_(parameter, generator=generator)
        elif ".blocks." in name and parameter.ndim > 1:
            parameter.data.mul_(10)  # so that blocks differ in what they give
    for slow, fast in zip(
        made.nodes["teacher"].parameters(), made.nodes["encoder"].parameters(), strict=True
    ):
        slow.data.copy_(fast)
    return made


def by_hand_of(method: Any, last: int) -> Data2Vec:
    node = method.nodes["encoder"]
    left = ("num_classes", "img_size", "global_pool", "in_chans")
    args = {k: v for k, v in node.model_args.items() if k not in left}
    hand = Data2Vec("beit_base_patch16_224", 64, last, **args)
    hand.student.load_state_dict(node.state_dict())
    hand.head.load_state_dict(method.nodes["predictor"].layers[0].state_dict())
    hand.make_teacher()
    return hand.train()


@pytest.fixture
def method() -> Any:
    return compiled(SMALL)


@pytest.fixture
def by_hand(method: Any) -> Data2Vec:
    return by_hand_of(method, 3)


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    """One view, which student and teacher both see: colours always, flip, crop."""
    made = method.run({}, ["view"], batch(images))["view"]
    assert made.shape[0] == 1
    expected = make_views(images.float() / 255, SEED, 64)
    torch.testing.assert_close(made[0], expected, rtol=0, atol=2e-5)


def test_loss_gradients_and_teacher_are_equal_over_three_steps(
    method: Any, by_hand: Data2Vec, images: Tensor
) -> None:
    """In float64, with ragged masks, which count every hidden place of the batch alike."""
    method.double()
    by_hand.double()
    renamed = {"encoder": ("", "student."), "predictor": ("layers.0.", "head.")}
    pairs = paired(method, by_hand, renamed)
    sides = [[pair[side] for pair in pairs.values()] for side in range(2)]
    descents = [torch.optim.SGD(side, lr=0.2, momentum=0.9) for side in sides]
    counts: set[int] = set()
    for step in range(3):
        data = batch(images, step)
        made = method.run({}, ["view", "mask"], data)
        views, hidden = made["view"].double(), made["mask"][0]
        counts |= set(hidden.sum(1).tolist())
        ours = method.run({"view": views}, ["loss"], data)["loss"]
        step_both(pairs, descents, (ours, by_hand(views[0], hidden)))
        method.after_step()
        by_hand.follow(0.9)
        slow = method.nodes["teacher"].members["encoder"].parameters()
        for mine, other in zip(slow, by_hand.teacher.parameters(), strict=True):
            assert torch.allclose(mine, other, rtol=1e-9, atol=1e-12)
    assert len(counts) > 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes.blocks.affine": True},
        {"nodes.loss.average": "image"},
        {"nodes.loss.beta": 1.0},
        {"nodes.blocks.in": ["teacher.tap1", "teacher.tap3", "teacher.tap4"]},
        {"nodes.target.in": "blocks.2"},
    ],
)
def test_a_wrong_graph_is_seen(
    method: Any, by_hand: Data2Vec, images: Tensor, wrong: dict[str, Any]
) -> None:
    """The comparison can fail: each of these is another loss or another set of weights."""
    taps = {"nodes.teacher.taps": [1, 2, 3, 4]} if "nodes.blocks.in" in wrong else {}
    other: Any = sslgraph.compile(
        sslgraph.load("data2vec", set={**SMALL, **taps, **wrong}), seed=SEED
    )
    if wrong == {"nodes.blocks.affine": True}:
        assert any(True for _ in other.nodes["blocks"].parameters())
        return
    for name, node in other.nodes.items():
        node.load_state_dict(method.nodes[name].state_dict())
    made = [method.run({}, ["view", "mask"], batch(images, step)) for step in range(4)]
    step = next(i for i, m in enumerate(made) if len(set(m["mask"].sum(-1).flatten().tolist())) > 1)
    theirs = by_hand(made[step]["view"][0], made[step]["mask"][0])
    assert torch.allclose(method(batch(images, step)).loss, theirs, rtol=1e-5)
    assert not torch.allclose(other(batch(images, step)).loss, theirs, rtol=1e-4)


def test_the_target_of_two_blocks() -> None:
    """A golden value of the recipe, by hand and from the nodes."""
    blocks = [torch.tensor([[[1.0, 2, 3, 4]]]), torch.tensor([[[4.0, 0, 0, 0]]])]
    norm = make_node("layer_norm", affine=False)
    mean = make_node("mean")(*(norm(block[None]) for block in blocks))
    expected = torch.tensor([0.195206, -0.512281, -0.065069, 0.382143])
    torch.testing.assert_close(mean.flatten(), expected, rtol=0, atol=2e-6)
    expected = torch.tensor([0.581447, -1.525895, -0.193816, 1.138263])
    torch.testing.assert_close(norm(mean).flatten(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(target_of(blocks).flatten(), expected, rtol=0, atol=1e-5)


def test_errors_on_either_side_of_beta() -> None:
    loss = make_node("smooth_l1", beta=2.0)
    for error, expected in {0.5: 0.0625, 1.0: 0.25, 3.0: 2.0}.items():
        found = loss(torch.full((1, 2, 4), error), torch.zeros(1, 2, 4))
        assert found.item() == pytest.approx(expected)


def test_the_teacher_sees_everything_and_drops_nothing(images: Tensor) -> None:
    """Its targets are those of evaluation: no mask, no stochastic depth, no dropout."""
    noisy = {**SMALL, "nodes.encoder.drop_path": 0.9, "nodes.encoder.attention_drop": 0.9}
    method: Any = sslgraph.compile(sslgraph.load("data2vec", set=noisy), seed=SEED)
    views = method.run({}, ["view"], batch(images))["view"]
    fetch = ["teacher.tap4", "encoder.tokens"]
    first, second = (method.run({"view": views}, fetch, batch(images)) for _ in range(2))
    assert torch.equal(first["teacher.tap4"], second["teacher.tap4"])
    assert not torch.equal(first["encoder.tokens"], second["encoder.tokens"])
    teacher = method.nodes["teacher"].members["encoder"]
    made: list[Tensor] = []
    teacher.model.blocks[-1].register_forward_hook(lambda _, __, y: made.append(y))
    teacher.model.eval().forward_features(views[0])
    torch.testing.assert_close(first["teacher.tap4"][0], made[0][:, 1:])


def test_no_gradient_reaches_the_teacher(method: Any, images: Tensor) -> None:
    method(batch(images)).loss.backward()
    assert all(p.grad is None for p in method.nodes["teacher"].parameters())


def test_places_are_not_averaged() -> None:
    """A table is looked up by whole numbers, of which 136 are one off after one such step.

    For 14 x 14 places there are 732; a momentum of 0.9999 in float32, cut to whole numbers again,
    as where a copy averages all of a state, makes 136 of them smaller, one of 0.9998 none.
    """
    index = np.arange((2 * 14 - 1) ** 2 + 3)
    for momentum, off in ((0.9999, 136), (0.9998, 0), (0.999, 0)):
        slow, fast = np.float32(momentum), np.float32(1 - momentum)
        averaged = (slow * index.astype(np.float32) + fast * index.astype(np.float32)).astype(int)
        assert (averaged != index).sum() == off
    tiny = {f"nodes.encoder.args.{name}": value for name, value in TINY.items()}
    same = {"vars.width": 24, "nodes.teacher.momentum": 0.9999, "nodes.teacher.taps": [1]}
    same |= {"nodes.blocks.in": ["teacher.tap1"], "nodes.mean.in": ["blocks"]}
    method: Any = sslgraph.compile(sslgraph.load("data2vec", set={**tiny, **same}))
    shared = method.nodes["teacher"].members["encoder"].model.rel_pos_bias
    before = shared.relative_position_index.clone()
    assert before.unique().tolist() == index.tolist()
    method.nodes["encoder"].model.rel_pos_bias.relative_position_index.add_(100_000)
    method.nodes["teacher"].write()  # averaged in whatever form, they would move by about ten
    assert torch.equal(shared.relative_position_index, before)


def test_sizes_of_the_recipe() -> None:
    checked = report(sslgraph.load("data2vec"))
    assert not checked.problems
    sizes = checked.sizes
    assert sizes is not None
    assert sizes.shapes["encoder", "tokens"][2:] == (196, 768)
    assert sizes.shapes["blocks", "y"][0] == 6
    assert sizes.shapes["target", "y"][0] == 1
    assert sizes.parameters["predictor"] == 768 * 768 + 768
    assert sizes.parameters["encoder"] == sizes.parameters["teacher"] == BEIT_BASE


def test_masks_of_the_recipe() -> None:
    """120 as in the released commands, where the paper has 118, which are 60 %."""
    require_block_masks("data2vec", 120, 119.5)


def test_blocks_of_the_recipe() -> None:
    """The command for ViT-B of the released code: drops of 0.25 and 0.05, scales of 1e-4."""
    require_blocks_of_beit("data2vec", SMALL, drop_path=0.25, attention_drop=0.05, scale=1e-4)
    method: Any = sslgraph.compile(sslgraph.load("data2vec", set=SMALL))
    require_first_weights_of_beit(method)
    weight = method.nodes["predictor"].layers[0].weight
    assert 0.9 * 0.02 < weight.abs().max() <= 0.02


def test_the_teacher_of_the_recipe(images: Tensor) -> None:
    """Targets are of the last six of twelve blocks; 0.9998 is kept from the first step on."""
    ours = ("taps", "momentum", "depth", "blocks.in", "mean.in")
    small = {key: value for key, value in SMALL.items() if not key.endswith(ours)}
    method = compiled(small)
    made = method.run({}, ["view", "mask", "loss"], batch(images))
    found = [by_hand_of(method, last)(made["view"][0], made["mask"][0]) for last in (5, 6, 7)]
    assert [torch.allclose(made["loss"], loss, rtol=1e-5) for loss in found] == [False, True, False]
    method.double()
    slow = next(method.nodes["teacher"].parameters())
    before = slow.clone()
    with torch.no_grad():
        next(method.nodes["encoder"].parameters()).add_(1)
    method.after_step()
    assert torch.allclose(slow - before, torch.full_like(slow, 2e-4), rtol=1e-3)


def test_learning_rate_and_decay_of_the_recipe(method: Any) -> None:
    """The command for ViT-B in the released code: 2e-3, ten epochs of warm-up, clipped at 3."""
    spec = sslgraph.load("data2vec").train
    rates = {0: 0.0, 5: 1e-3, 10: 2e-3, 405: (2e-3 + 1e-5) / 2, 800: 1e-5}
    require_recipe(spec, rates=rates, epochs=800, clip=3)
    names = (TABLE, "encoder.mask_token", "predictor.layers.0.weight")
    require_decay(method, spec, *names, without=("cls_token",))
