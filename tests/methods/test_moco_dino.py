"""DINO with MoCo's queue as a graph against the same by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import sslgraph
from sslgraph.method import Method
from sslgraph.plan import make_plan
from tests.methods.dino_by_hand import Network
from tests.methods.distilled import (
    COUNT,
    DIM,
    HIDDEN,
    RATE,
    RUN,
    Pairs,
    batch_of,
    in_float64,
    numbers_at,
    positions_in_float64,
    require_equal,
    require_equal_gradients,
    same_parameters,
    seed_drop_path,
    updater_of,
)
from tests.methods.joint import sizes_of
from tests.methods.moco_dino_by_hand import QueuedTrainer

SEED, CLIP, BATCH, ROWS = 9, 0.02, 6, 15
SMALL: dict[str, Any] = {
    "vars": {"arch": "test_vit", "hidden": HIDDEN, "dim": DIM, "prototypes": COUNT},
    "nodes.crops.crops.global.size": 48,
    "nodes.crops.crops.local": {"size": 32, "views": 2},
    "nodes.queue.size": ROWS,  # no multiple of the batch: the third step wraps round
    "train.lr": RATE,
    "train.clip.norm": CLIP,
}


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> Method:
    positions_in_float64(monkeypatch)
    return in_float64("moco_dino", SMALL, SEED, RUN)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return batch_of(BATCH, 56)


@pytest.fixture
def by_hand(method: Method) -> QueuedTrainer:
    student, teacher = (
        Network("test_vit", HIDDEN, DIM, COUNT, drop).double() for drop in (0.1, 0.0)
    )
    for ours, theirs in beside(method.nodes, student):
        theirs.data.copy_(ours.data)
    hand = QueuedTrainer(student, teacher, CLIP)
    queue: Any = method.nodes["queue"]
    # of unit length to the last bit of float64, as the loss makes them
    hand.begin(functional.normalize(queue.rows[0], dim=-1), temperature=0.07, weight=0.5)
    return hand


def beside(nodes: Any, hand: Network) -> Pairs:
    """Each parameter of a network beside its own by hand."""
    weight = hand.last.parametrizations.weight
    yield from same_parameters(nodes["encoder"].model, hand.backbone)
    yield from same_parameters(nodes["projector"].layers, hand.mlp)
    last = nodes["prototypes"]
    yield from ((last.g, weight.original0), (last.v, weight.original1))


def test_three_steps_are_equal(
    method: Method, by_hand: QueuedTrainer, batch: dict[str, Tensor]
) -> None:
    """Loss, gradients, weights, teacher, center, queue and its pointer."""
    updater = updater_of(method, SEED, RUN)
    nodes: Any = method.nodes
    queue, clipped = nodes["queue"], 0
    for step in range(3):
        numbers = numbers_at(step)
        views = method.run({}, ["crops.global", "crops.local"], batch)
        seed_drop_path(SEED, step)
        loss = by_hand.forward(views["crops.global"], views["crops.local"], numbers.temperature)
        by_hand.backward(loss, numbers.frozen)
        done = updater.begin([batch], step)
        require_equal([(done.loss, loss)])
        clipped += require_equal_gradients(beside(nodes, by_hand.student), CLIP)
        by_hand.update(numbers)
        assert updater.finish(done) == ""
        require_equal(beside(nodes, by_hand.student))
        require_equal(beside(nodes["teacher"].members, by_hand.teacher))
        require_equal([(nodes["center"].center[0], by_hand.center), (queue.rows[0], by_hand.queue)])
        assert int(queue.place) == by_hand.pointer == (step + 1) * BATCH % ROWS
    assert clipped > 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes.queue.in": "teacher.projector.1"},
        {"nodes.queue.in": "projector.0"},
        {"minimize.contrast": 1.0},
        {"nodes.contrast.pairs": "all"},
        {"nodes.contrast.in": {"query": "projector", "positive": "teacher.projector"}},
    ],
)
def test_a_wrong_wire_is_seen(
    by_hand: QueuedTrainer, batch: dict[str, Tensor], wrong: dict[str, Any]
) -> None:
    """The comparison can fail, at the latest when keys of the first step are negatives."""
    other = in_float64("moco_dino", {**SMALL, **wrong}, SEED, RUN)
    views = other.run({}, ["crops.global", "crops.local"], batch)
    apart = []
    for step in range(2):
        torch.manual_seed(step)
        theirs = by_hand.forward(views["crops.global"], views["crops.local"], 0.04)
        torch.manual_seed(step)
        apart.append(not torch.allclose(other(batch).loss, theirs, rtol=1e-5))
    assert any(apart)


def test_pairs_of_both_losses_are_equal() -> None:
    """Every crop but the same one: 2 x 9 with eight small crops, 2 x 3 with two."""
    for settings, count in (({}, 18), ({"nodes.crops.crops.local.views": 2}, 6)):
        plan = make_plan(sslgraph.load("moco_dino", set=settings))
        pairs = plan.step("contrast").pairs
        assert set(pairs) == set(plan.step("loss").pairs)
        assert len(pairs) == count


def test_the_contrast_of_equal_and_of_told_apart_keys(method: Method) -> None:
    """ln(1 + 15) where nothing is told apart; with all at right angles ln(1 + 15 e^(-1 / 0.07))."""
    keys = torch.eye(DIM, dtype=torch.float64)[:1].expand(4, BATCH, DIM)
    for axis, expected in ((0, math.log(16)), (1, math.log1p(15 * math.exp(-1 / 0.07)))):
        negatives = torch.eye(DIM, dtype=torch.float64)[axis].expand(1, ROWS, DIM)
        loss: Any = method.nodes["contrast"]
        found = loss(query=keys, positive=keys[:2], negatives=negatives)
        assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_queue_begins_with_random_directions(method: Method) -> None:
    """As in MoCo's `builder.py`, `normalize(randn(dim, K))`: negatives of the first batches."""
    begun: Any = method.nodes["queue"]
    rows = begun.rows[0]
    assert rows.norm(dim=-1).tolist() == pytest.approx([1.0] * ROWS, rel=1e-6)
    cosines = (rows @ rows.T).fill_diagonal_(0).abs()
    assert 0 < cosines.max() < 0.999


def test_sizes_of_the_graph() -> None:
    """The queue holds vectors of 256; DINO's nodes and no others have weights."""
    sizes = sizes_of("moco_dino")
    assert sizes.shapes["queue", "items"] == (1, 65536, 256)
    having = {name for name, count in sizes.parameters.items() if count}
    assert having == {"encoder", "projector", "prototypes", "teacher"}
