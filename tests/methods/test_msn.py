"""MSN as a graph against MSN written by hand, its golden numbers, masks and schedules."""

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
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.distilled import (
    COUNT,
    DIM,
    HIDDEN,
    PEAK,
    RUN,
    Pairs,
    batch_of,
    cosine,
    cosines,
    exact,
    in_float64,
    positions_in_float64,
    require_equal,
    require_equal_step,
    same_parameters,
    updater_of,
    waves,
)
from tests.methods.msn_by_hand import Network, Numbers, Trainer, losses

SEED, CLIP = 4, 0.1
SMALL: dict[str, Any] = {
    "vars": {"arch": "test_vit", "hidden": HIDDEN, "dim": DIM, "prototypes": COUNT},
    "nodes.crops.crops.target.size": 64,
    "nodes.crops.crops.anchor.size": 64,
    "nodes.crops.crops.focal": {"size": 32, "views": 3},
    "train.lr": {"peak": PEAK, "start": 1e-3, "warmup": "1 epoch", "end": 1e-6},
    "train.clip.norm": CLIP,
}


@pytest.fixture
def method() -> Method:
    return in_float64("msn", SMALL, SEED, RUN)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return batch_of(8, 72)


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    student, nodes = Network("test_vit", HIDDEN, DIM).double(), method.nodes
    for ours, theirs in of_networks(nodes, student):
        theirs.data.copy_(ours.data)
    prototypes: Any = nodes["prototypes"]
    return Trainer(student, prototypes.v.detach(), CLIP)


def of_networks(nodes: Any, hand: Network) -> Pairs:
    """Each parameter of backbone and head beside its own by hand."""
    yield from same_parameters(nodes["encoder"].model, hand.backbone)
    yield from same_parameters(nodes["projector"].layers, hand.head)


def of_student(method: Method, hand: Trainer) -> Pairs:
    prototypes: Any = method.nodes["prototypes"]
    yield from of_networks(method.nodes, hand.student)
    yield prototypes.v, hand.prototypes


def test_three_steps_are_equal(
    method: Method,
    by_hand: Trainer,
    batch: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses, gradients, weights, teacher and statistics, in float64."""
    positions_in_float64(monkeypatch)
    updater = updater_of(method, SEED, RUN)
    slow: Any = method.nodes["teacher"].members
    wanted = ["crops.target", "crops.anchor", "crops.focal", "mask"]
    for step in range(3):
        made = method.run({}, wanted, batch)
        kept = (~made["mask"][0, 0]).nonzero().flatten()
        assert len(kept) == 13  # int(16 x 0.85)
        target, anchor, focal = (made[name] for name in wanted[:3])
        loss, spread = by_hand.forward(target, anchor, focal, kept)
        by_hand.optimizer.zero_grad()
        torch.autograd.backward(loss + spread)
        require_equal_step(
            updater,
            batch,
            step,
            {"loss": loss, "spread": spread},
            pairs=lambda: of_student(method, by_hand),
            update=partial(by_hand.update, _numbers(step)),
            slow=lambda: of_networks(slow, by_hand.teacher),
        )
    for ours, theirs in ((method.nodes, by_hand.student), (slow, by_hand.teacher)):
        head: Any = ours["projector"]
        buffers = zip(head.layers.buffers(), theirs.head.buffers(), strict=True)
        require_equal((a, b) for a, b in buffers if a.is_floating_point())


def _numbers(step: int) -> Numbers:
    """Warm-up over two of eight steps; everything else moves as if there were ten."""
    rising = 1e-3 + (PEAK - 1e-3) * step / 2
    return Numbers(
        lr=rising if step < 2 else cosine(PEAK, 1e-6, (step - 2) / 8),
        weight_decay=cosine(0.04, 0.4, step / 10),
        momentum=0.996 + 0.004 * step / 10,
    )


def test_pooled_statistics_are_seen(
    method: Method, by_hand: Trainer, batch: dict[str, Tensor]
) -> None:
    """The proof can fail: statistics of each focal crop alone give another loss."""
    changes = {**SMALL, "nodes.projector.batch_norm.per": "view"}
    other = in_float64("msn", changes, SEED, RUN)
    assert not torch.allclose(method(batch).loss, other(batch).loss, rtol=1e-4)


ANCHORS, TARGET, PROTOTYPES = waves(1, 12, 2, 2, 3), cosines(1, 6, 1, 2, 3), waves(7, 21, 5, 3)


@pytest.mark.parametrize(("balanced", "expected"), [(False, 18.789860382), (True, 19.458186448)])
def test_golden_numbers(balanced: bool, expected: float) -> None:
    """Cross entropy, evenness and mean entropy of the published class (src/losses.py)."""
    nodes = sslgraph.load("msn").nodes
    prototypes: Any = make_node("prototypes", axes={"D": 3}, count=5).double()
    prototypes.v.data.copy_(PROTOTYPES)
    sharp = exact("sharpen", temperature=0.1, power=4.0)
    balance: Any = make_node("sinkhorn", **nodes["target"].settings)
    compare = exact("soft_cross_entropy", temperature=0.1, pairs=nodes["loss"].settings["pairs"])
    spread = exact("mean_entropy", temperature=0.1)
    scores, wanted = (prototypes(unit(x)) for x in (ANCHORS, TARGET))
    wanted = sharp(wanted)
    wanted = balance(wanted) if balanced else wanted
    assert compare(scores, wanted).item() == pytest.approx(expected, abs=1e-8)
    probs = exact("sharpen", temperature=0.1)(scores)
    entropy = -(probs * probs.log()).sum(-1).mean()
    assert entropy.item() == pytest.approx(0.738055095, abs=1e-9)
    assert spread(scores).item() == pytest.approx(0.160525066589, abs=1e-11)
    hands = losses(ANCHORS, TARGET[0], PROTOTYPES, balanced=balanced)
    assert [x.item() for x in hands] == pytest.approx([expected, 0.160525066589], abs=1e-8)


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def test_schedules_have_the_golden_values() -> None:
    """Of 800 epochs of 1251 steps, cut off from one and a quarter of them."""
    steps = 800 * 1251
    train = sslgraph.load("msn").train
    run = Horizon(total_steps=steps, steps_per_epoch=1251)
    assert (train.epochs, train.batch_size) == (800, 1024)
    rates = [learning_rate(train.lr, 1024, step, run) for step in (1, 15 * 1251, steps)]
    assert rates[0] == pytest.approx(2.0004e-4, rel=1e-4)
    assert rates[1] == pytest.approx(1e-3, rel=1e-6)
    assert rates[2] == pytest.approx(9.922e-5, rel=1e-3)
    decay: Any = train.weight_decay
    assert decay.value(steps, steps, 1251) == pytest.approx(0.36562, abs=1e-5)
    method = sslgraph.compile(sslgraph.load("msn", set=SMALL))
    (hand,) = method.hands()
    assert hand.schedule.value(steps, steps, 1251) == pytest.approx(0.9992, abs=1e-7)


def test_one_mask_for_a_batch_on_the_anchor_alone(method: Method, batch: dict[str, Tensor]) -> None:
    """166 of 196 patches stay; focal crops and the target are whole."""
    made = method.run({}, ["mask"], batch)["mask"]
    assert (made == made[:, :1]).all()
    later = method.run({}, ["mask"], {**batch, "index": torch.arange(8, 16)})["mask"]
    assert not torch.equal(made, later)
    counts: list[int] = []
    slow: Any = method.nodes["teacher"].members
    encoders: list[Any] = [method.nodes["encoder"], slow["encoder"]]
    for node in encoders:
        node.model.blocks[0].register_forward_hook(lambda _, x, y: counts.append(y.shape[1]))
    method(batch)
    assert sorted(counts) == [1 + 4, 1 + 13, 1 + 16]
    mask = make_node("random_mask", axes={"H": 224, "W": 224}, ratio=0.15, same="batch")
    hidden = mask(torch.zeros(1, 4, 3, 224, 224), torch.arange(4).unsqueeze(0))[0]
    assert (~hidden).sum(-1).unique().tolist() == [166]


def test_every_anchor_meets_the_one_target() -> None:
    plan = make_plan(sslgraph.load("msn"))
    assert sorted(plan.step("loss").pairs) == [(i, 0) for i in range(11)]


def test_prototypes_are_not_slow_and_learn_from_anchors_alone(
    method: Method, batch: dict[str, Tensor]
) -> None:
    made = method.run({}, ["prototypes", "scores", "target"], batch)
    assert made["prototypes"].requires_grad
    assert not made["target"].requires_grad
    assert list(method.nodes["scores"].parameters()) == []
    assert not hasattr(method.nodes["teacher"].members, "prototypes")


def test_without_sinkhorn(batch: dict[str, Tensor]) -> None:
    """The preset: sharpened targets as they are, still without a gradient."""
    method = in_float64("msn", SMALL, SEED, RUN, preset="unbalanced")
    made = method.run({}, ["sharp", "target"], batch)
    assert torch.equal(made["sharp"], made["target"])
    assert not made["target"].requires_grad
