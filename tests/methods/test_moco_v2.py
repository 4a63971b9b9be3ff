"""MoCo v2 as a graph against MoCo v2 written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.canonical import canonical
from tests.methods import joint, mocos
from tests.methods.moco_v2_by_hand import Moco, make_views, shuffle

SEED, BATCH = 4, 12
SMALL = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.hidden": 32,
    "vars.dim": 16,
    "vars.queue": 20,  # no multiple of the batch: the second step wraps round
    "vars.groups": 3,
    "train.batch_size": BATCH,
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return joint.pictures(BATCH, 28)


def compiled(**changes: Any) -> Any:
    return sslgraph.compile(sslgraph.load("moco_v2", set={**SMALL, **changes}), seed=SEED)


@pytest.fixture
def method() -> Any:
    return compiled()


@pytest.fixture
def by_hand(method: Any) -> Moco:
    hand = Moco("test_resnet", joint.width_of(method), 32, 16)
    joint.share_weights(method, quick(hand))
    # of unit length to the last bit of float64, as the loss makes them
    rows = nn.functional.normalize(method.nodes["queue"].rows[0].double(), dim=-1)
    hand.begin(rows, groups=3, temperature=_float32(0.2))
    return hand.train()


def batch(images: Tensor, step: int = 0) -> dict[str, Tensor]:
    """Images at positions of their own in each step."""
    return {"image": images, "index": torch.arange(BATCH) + step * BATCH}


def views_by_hand(images: Tensor) -> Tensor:
    return make_views(images.float() / 255, SEED, "views", 24)


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    joint.require_views(method, images, views_by_hand(images))


def test_three_steps_are_equal(method: Any, by_hand: Moco, images: Tensor) -> None:
    """Loss, gradients, both networks, the queue and its pointer, in float64 from equal views."""
    method.double()
    by_hand.double()
    method.nodes["views"].register_forward_hook(lambda node, given, made: made.double())
    pairs = joint.named_pairs(method, quick(by_hand))
    slow = {"key.encoder": by_hand.slow_encoder, "key.projector": by_hand.slow_projector}
    slow_pairs = joint.named_pairs(method, slow)
    trained = [[p for p in m.parameters() if p.requires_grad] for m in (method, by_hand)]
    assert len({sum(p.numel() for p in side) for side in trained}) == 1
    descents = [torch.optim.SGD(side, 0.05, momentum=0.9) for side in trained]
    queue = method.nodes["queue"]
    for step in range(3):
        ours = method(batch(images)).loss
        views = method.run({}, ["views"], batch(images))["views"]
        order = shuffle(SEED, "key.encoder", step, BATCH)
        theirs = by_hand(views[0], views[1], order)
        assert torch.allclose(ours, theirs, rtol=1e-7)
        for descent, loss in zip(descents, (ours, theirs), strict=True):
            descent.zero_grad()
            loss.backward()
        for name, mine, other in pairs:
            assert mine.grad is not None, name
            assert other.grad is not None, name
            assert _close(mine.grad, other.grad), name
        for descent in descents:
            descent.step()
        method.after_step()
        by_hand.follow(_float32(0.999))
        for name, mine, other in [*pairs, *slow_pairs]:
            assert _close(mine, other), name
        assert _close(queue.rows[0], by_hand.queue)
        assert queue.place.item() == by_hand.pointer == (step + 1) * BATCH % 20


def test_a_wrong_shuffle_is_seen(method: Any, by_hand: Moco, images: Tensor) -> None:
    """The comparison can fail: keys in the order of the images have other statistics."""
    first, second = views_by_hand(images).double()
    ours = method(batch(images)).loss.double()
    theirs = by_hand.double()(first, second, list(range(BATCH)))
    assert not torch.allclose(ours, theirs, rtol=1e-3)


def test_the_queue_gets_the_keys_of_the_step_and_nothing_else(method: Any, images: Tensor) -> None:
    queue = method.nodes["queue"]
    with torch.no_grad():
        queue.place.fill_(5)
    before, kept = queue.rows.clone(), []
    method.nodes["key"].register_forward_hook(lambda node, given, made: kept.append(made[-1]))
    method(batch(images))
    keys = nn.functional.normalize(kept[0][0], dim=-1)
    assert torch.equal(queue.rows[0, 5:17], keys)
    assert torch.equal(queue.rows[0, :5], before[0, :5])
    assert torch.equal(queue.rows[0, 17:], before[0, 17:])


def test_only_the_query_branch_learns(method: Any, images: Tensor) -> None:
    method(batch(images)).loss.backward()
    assert all(p.grad is None for p in method.nodes["key"].parameters())
    assert not any(p.requires_grad for p in method.nodes["key"].parameters())
    for name in ("encoder", "projector"):
        assert all(p.grad is not None for p in method.nodes[name].parameters()), name


@pytest.mark.parametrize("momentum", [0, 1])
def test_momentum_0_copies_and_1_freezes(momentum: int, images: Tensor) -> None:
    method = compiled(**{"vars.momentum": momentum})
    slow = [p for m in method.nodes["key"].members.values() for p in m.parameters()]
    fast = [p for n in ("encoder", "projector") for p in method.nodes[n].parameters()]
    before = [p.detach().clone() for p in slow]
    method(batch(images)).loss.backward()
    torch.optim.SGD([p for p in fast if p.requires_grad], 0.1).step()
    method.after_step()
    expected = before if momentum else fast
    assert all(torch.equal(a, b) for a, b in zip(slow, expected, strict=True))
    other = fast if momentum else before
    assert not all(torch.equal(a, b) for a, b in zip(slow, other, strict=True))


@pytest.mark.parametrize(
    ("positive", "negative", "value"), [(1.0, 1.0, 11.090370), (1.0, 0.0, 6.092617)]
)
def test_the_loss_of_equal_and_of_told_apart_keys(
    positive: float, negative: float, value: float
) -> None:
    """The published queue: ln 65537 where nothing is told apart."""
    method = compiled(**{"vars.queue": 65536})
    query = torch.eye(16)[:1].expand(1, BATCH, 16)
    with torch.no_grad():
        method.nodes["queue"].rows.zero_()[..., 0 if negative else 1] = 1
    found = method.run({"projector": query, "key": positive * query}, ["loss"])["loss"]
    assert found.item() == pytest.approx(value, abs=1e-5)
    chance = method.nodes["loss"].chance({"U": 1, "Q": 65536, "B": BATCH, "D": 16})
    assert chance == pytest.approx(11.090370, abs=1e-6)
    assert chance == pytest.approx(math.log(65537))


@pytest.mark.parametrize("training", [False, True])
def test_the_first_loss_is_that_of_random_rows(training: bool, images: Tensor) -> None:
    """Cosines of random directions are nearly normal, of variance 1/D.

    So a random row weighs exp(1 / (2 D T^2)) in the mean. What an untrained network makes of two
    views is nearly one direction, unless few images share batch statistics.
    """
    published = {"vars.hidden": 2048, "vars.dim": 128, "vars.queue": 65536}
    method = compiled(**published).train(training)
    made = method.run({}, ["projector", "key"], batch(images))
    cosines = nn.functional.cosine_similarity(made["projector"], made["key"], dim=-1)
    rows = 65536 * math.exp(1 / (2 * 128 * 0.2**2))
    expected = (1 + rows * (-cosines / 0.2).exp()).log().mean().item()
    first = method.run(made, ["loss"])["loss"].item()
    assert first == pytest.approx(expected, abs=0.02)
    if not training:
        assert first == pytest.approx(6.2, abs=0.05)


def test_sizes_of_the_published_networks() -> None:
    mocos.require_published_sizes("moco_v2", 4_458_624)


def test_the_learning_rate_of_the_recipe() -> None:
    """With `--cos`: half a cosine down to 0, one value an epoch."""
    mocos.require_published_recipe(
        "moco_v2", lambda epoch: 0.03 * 0.5 * (1 + math.cos(math.pi * epoch / 200))
    )


def test_the_method_fits_on_a_screen() -> None:
    data = {k: v for k, v in sslgraph.load("moco_v2").document.data.items() if k != "presets"}
    assert len(canonical(data).splitlines()) <= 40


def _float32(value: float) -> float:
    """A number as a node holds it."""
    return float(torch.tensor(value))


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def quick(hand: Moco) -> dict[str, Any]:
    return {"encoder": hand.encoder, "projector": hand.projector}
