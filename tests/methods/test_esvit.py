"""EsViT as a graph against EsViT written by hand, its golden numbers and its match of regions."""

from __future__ import annotations

import copy
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
    cosines,
    exact,
    in_float64,
    numbers_at,
    require_equal,
    require_equal_step,
    same_parameters,
    updater_of,
    waves,
)
from tests.methods.esvit_by_hand import Network, Seen, Trainer, total

SEED, CLIP = 5, 0.02
SWIN = {"patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
SMALL: dict[str, Any] = {
    "vars": {"hidden": HIDDEN, "dim": DIM, "prototypes": COUNT},
    "nodes.crops.crops.global.size": 32,
    "nodes.crops.crops.local": {"size": 16, "views": 3},
    "nodes.encoder": {"drop_path": 0.0, "args": SWIN},
    "minimize": {"near": 1 / 16, "far": 1 / 16},
    "train.lr": RATE,
    "train.clip.norm": CLIP,
}


@pytest.fixture
def method() -> Method:
    return in_float64("esvit", SMALL, SEED, RUN)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return batch_of(4, 40)


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    encoder: Any = method.nodes["encoder"]
    backbone = copy.deepcopy(encoder.model)
    student = Network(backbone, backbone.num_features, HIDDEN, DIM, COUNT).double()
    for ours, theirs in both_heads(method.nodes, student):
        theirs.data.copy_(ours.data)
    return Trainer(student, copy.deepcopy(student), CLIP)


def both_heads(nodes: Any, hand: Any) -> Pairs:
    """Each parameter beside its own by hand."""
    yield from same_parameters(nodes["encoder"].model, hand.backbone)
    for head, last, mlp, normed in (
        ("head", "scores", hand.mlp, hand.last),
        ("region_head", "regions", hand.region_mlp, hand.region_last),
    ):
        weight = normed.parametrizations.weight
        yield from same_parameters(nodes[head].layers, mlp)
        yield from ((nodes[last].g, weight.original0), (nodes[last].v, weight.original1))


def test_three_steps_are_equal(method: Method, by_hand: Trainer, batch: dict[str, Tensor]) -> None:
    """Loss, gradients, weights, both slow copies and both centers, in float64."""
    updater = updater_of(method, SEED, RUN)
    nodes: Any = method.nodes
    slow = {**dict(nodes["teacher"].members), **dict(nodes["seen"].members)}
    for step in range(3):
        numbers = numbers_at(step)
        made = method.run({}, ["crops.global", "crops.local"], batch)
        loss = by_hand.forward(made["crops.global"], made["crops.local"], numbers.temperature)
        by_hand.backward(loss, numbers.frozen)
        long = require_equal_step(
            updater,
            batch,
            step,
            {"": loss},
            pairs=lambda: both_heads(nodes, by_hand.student),
            update=partial(by_hand.update, numbers),
            slow=lambda: both_heads(slow, by_hand.teacher),
            longer=CLIP,
        )
        assert long > 3
        centers = (nodes["center"].center[0], nodes["region_center"].center[0])
        require_equal(zip(centers, (by_hand.center, by_hand.region_center), strict=True))


def of_views(rows: Tensor, counts: tuple[int, ...]) -> list[Tensor]:
    """Rows of one image by view: 1 N D each."""
    return [part.unsqueeze(0) for part in rows.split(counts)]


def test_golden_numbers() -> None:
    """The published loss of one image, two regions in large crops and one in the small one."""
    regions = of_views(waves(3, 17, 5, 3), (2, 2, 1))
    features = of_views(cosines(1, 10, 5, 2), (2, 2, 1))
    teacher = cosines(3, 14, 2, 1, 2, 3)
    bank = waves(1, 8, 2, 1, 2, 2)
    views, seen = waves(1, 9, 3, 1, 3), cosines(1, 6, 2, 1, 3)
    settings = sslgraph.load("esvit").nodes
    sharpen = exact("sharpen", temperature=0.04)
    center, region_center = (exact("center", {"K": 3}, momentum=0.9) for _ in range(2))
    match = make_node("match")
    each = exact("soft_cross_entropy", **settings["views"].settings)
    summed = exact("soft_cross_entropy", **settings["near"].settings)
    target, region_target = sharpen(center(seen)), sharpen(region_center(teacher))
    near, far = torch.stack(regions[:2]), torch.stack(regions[2:])
    found = match(torch.stack(features[:2]), bank)
    loss = 0.5 * each(views, target) + summed(near, region_target, None, None, found) / 8
    one = exact("soft_cross_entropy", **{**settings["far"].settings, "pairs": "all"})
    loss = loss + one(far, region_target, None, None, match(torch.stack(features[2:]), bank)) / 8
    assert loss.item() == pytest.approx(6.128575286318, abs=1e-10)
    student: Seen = (list(views), regions, features)
    hand = total(
        student, list(target), list(region_target), (list(seen), list(teacher), list(bank))
    )
    assert hand.item() == pytest.approx(6.128575286318, abs=1e-10)
    with torch.no_grad():
        center.write(x=seen)
        region_center.write(x=teacher)
    found = [-0.005667066, -0.006624233, -0.00149111]
    assert center.center[0].tolist() == pytest.approx(found, abs=1e-9)
    found = [-0.002427463, 0.004215847, 0.006983127]
    assert region_center.center[0].tolist() == pytest.approx(found, abs=1e-9)


def test_the_weights_are_half_of_the_mean_over_all_pairs() -> None:
    plan = make_plan(sslgraph.load("esvit"))
    counts = [len(plan.step(name).pairs) for name in ("views", "near", "far")]
    assert counts == [18, 2, 16]
    weights = plan.graph.minimize
    assert weights == {"views": 0.5, "near": 0.5 / 18, "far": 0.5 / 18}
    tiny = make_plan(sslgraph.load("esvit", preset="tiny"))
    pairs = len(tiny.step("near").pairs) + len(tiny.step("far").pairs)
    assert tiny.graph.minimize["near"] == tiny.graph.minimize["far"] == 0.5 / pairs


def test_matches_follow_features_and_carry_no_gradient(
    method: Method, batch: dict[str, Tensor]
) -> None:
    """With regions of the teacher in another order the same ones are found, in that order."""
    names = ["encoder.tokens", "teacher.encoder.tokens", "match", "local_match"]
    made = method.run({}, names, batch)
    assert [tuple(made[name].shape) for name in names[2:]] == [(2, 4, 2, 16), (3, 4, 2, 4)]
    order = torch.randperm(16)
    swapped = method.run(
        {
            "encoder.tokens": made["encoder.tokens"],
            "teacher.encoder.tokens": made["teacher.encoder.tokens"][:, :, order],
        },
        ["match"],
        batch,
    )["match"]
    assert torch.equal(order[swapped], made["match"])
    assert not made["match"].is_floating_point()


def test_regions_have_a_head_of_their_own(method: Method) -> None:
    heads: list[Any] = [method.nodes["scores"], method.nodes["regions"]]
    assert heads[0].v is not heads[1].v
    assert not torch.equal(heads[0].v, heads[1].v)
    assert list(method.nodes["local_regions"].parameters()) == []
