"""DINO as a graph against DINO written by hand, its golden numbers, and its pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.plan import make_plan
from sslgraph.train.groups import parameter_groups
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train.step import Updater
from tests.methods.dino_by_hand import Group, Network, Numbers, Trainer, make_crops
from tests.methods.simclr_by_hand import mix, text_key

SEED = 3
HIDDEN, DIM, COUNT, CLIP = 32, 16, 24, 0.02
PEAK = 1e-2
RUN = Horizon(total_steps=8, steps_per_epoch=2)
SMALL: dict[str, Any] = {
    "vars.arch": "test_vit",
    "vars.hidden": HIDDEN,
    "vars.dim": DIM,
    "vars.prototypes": COUNT,
    "nodes.crops.crops.global.size": 48,
    "nodes.crops.crops.local.size": 32,
    "nodes.crops.crops.local.views": 3,
    "train.lr": {"peak": PEAK, "base": None, "per": None, "warmup": "1 epoch", "end": 1e-6},
    "train.clip.norm": CLIP,
}
GROUPS = (
    Group("global", 2, 48, (0.4, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2)),
    Group("local", 3, 32, (0.05, 0.4), blur=(0.5,) * 3, solarize=(0.0,) * 3),
)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Eight smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, 56)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(8 * 3).view(8, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


@pytest.fixture
def method() -> Method:
    return _compiled(sslgraph.load("dino", set=SMALL))


def _compiled(graph: Any) -> Method:
    method = sslgraph.compile(graph, seed=SEED)
    method.clock.set(total_steps=RUN.total_steps, steps_per_epoch=RUN.steps_per_epoch)
    return method


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    student, teacher = (Network("test_vit", HIDDEN, DIM, COUNT, drop) for drop in (0.1, 0.0))
    for ours, theirs in _named(method, student):
        theirs.data.copy_(ours.data)
    return Trainer(student, teacher, CLIP)


def _named(method: Method, hand: Network) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of the student beside its own by hand."""
    return _pairs(method.nodes, hand)


def _teachers(method: Method, hand: Network) -> Iterator[tuple[Tensor, Tensor]]:
    members: Any = method.nodes["teacher"].members
    return _pairs(members, hand)


def _pairs(nodes: Any, hand: Network) -> Iterator[tuple[Tensor, Tensor]]:
    encoder, projector, last = (nodes[n] for n in ("encoder", "projector", "prototypes"))
    weight = hand.last.parametrizations.weight
    yield from zip(encoder.model.parameters(), hand.backbone.parameters(), strict=True)
    yield from zip(projector.layers.parameters(), hand.mlp.parameters(), strict=True)
    yield from ((last.g, weight.original0), (last.v, weight.original1))


def test_crops_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    """But for pixels that lie on the threshold of solarize, within rounding."""
    index = {"index": torch.arange(8)}
    for group in GROUPS:
        name = f"crops.{group.name}"
        made = method.run({"batch.image": images}, [name], index)[name]
        expected = make_crops(images.float() / 255, SEED, "crops", group)
        assert ((made - expected).abs() < 1e-4).double().mean() > 0.9999


def test_three_steps_are_equal(method: Method, by_hand: Trainer, images: Tensor) -> None:
    """Loss, gradients, weights, teacher and center; prototypes frozen for the first epoch."""
    updater = _updater(method)
    batch = {"image": images, "index": torch.arange(8)}
    last: Any = method.nodes["prototypes"]
    before = last.v.detach().clone()
    clipped = 0
    for step in range(3):
        numbers = _numbers(step)
        views = method.run({"batch.image": images}, ["crops.global", "crops.local"], batch)
        torch.manual_seed(mix(SEED, text_key("model"), step, 0) & (2**63 - 1))  # of drop path
        loss = by_hand.forward(views["crops.global"], views["crops.local"], numbers.temperature)
        by_hand.backward(loss, numbers.frozen)
        done = updater.begin([batch], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-5, atol=0)
        clipped += _require_equal_gradients(method, by_hand.student)
        by_hand.update(numbers)
        assert updater.finish(done) == ""
        _require_equal(_named(method, by_hand.student))
        _require_equal(_teachers(method, by_hand.teacher))
        center: Any = method.nodes["center"].center
        torch.testing.assert_close(center[0], by_hand.center, rtol=1e-4, atol=1e-7)
        assert torch.equal(last.v, before) == numbers.frozen
    assert clipped > 10


def _updater(method: Method) -> Updater:
    spec, nodes = method.graph.train, method.graph.nodes
    own = {name: node.train for name, node in nodes.items()}
    groups = parameter_groups(method, method.parameters_by_node(), spec, own, RUN)
    return Updater(method, build_optimizer(spec, groups), groups, spec, RUN, SEED)


def _numbers(step: int) -> Numbers:
    """The recipe's schedules: warm-up over one epoch of two steps, eight steps in all."""
    half = (1 + math.cos(math.pi * step / 8)) / 2
    falling = (1 + math.cos(math.pi * (step - 2) / 6)) / 2
    lr = PEAK * step / 2 if step < 2 else 1e-6 + (PEAK - 1e-6) * falling
    epoch = step // 2
    return Numbers(
        lr=lr,
        weight_decay=0.4 + (0.04 - 0.4) * half,
        momentum=1 + (0.996 - 1) * half,
        temperature=float(torch.linspace(0.04, 0.07, 30, dtype=torch.float64)[epoch]),
        frozen=epoch < 1,
    )


def _require_equal_gradients(method: Method, hand: Network) -> int:
    """How many of them are longer than the clip."""
    long = 0
    for ours, theirs in _named(method, hand):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)
            long += int(ours.grad.norm() > CLIP)
    return long


def _require_equal(pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


STUDENT = torch.arange(1, 25, dtype=torch.float64).sin().view(3, 2, 4)
TEACHER = torch.arange(1, 17, dtype=torch.float64).cos().view(2, 2, 4)


def test_golden_numbers() -> None:
    """Loss, entropy of the teacher and center of the published class, and the loss after it."""
    center: Any = make_node("center", axes={"K": 4}).double()
    target: Any = make_node("sharpen", temperature=0.04).double()
    loss: Any = make_node("soft_cross_entropy", temperature=0.1).double()
    for node, name, value in (
        (center, "momentum", 0.9),
        (target, "temperature", 0.04),
        (loss, "temperature", 0.1),
    ):
        setattr(node, name, torch.tensor(value, dtype=torch.float64))
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


def test_the_order_of_references_changes_no_loss(images: Tensor) -> None:
    swapped = {**SMALL, "nodes.projector.in": ["local.embedding", "encoder.embedding"]}
    losses = []
    for changes in (SMALL, swapped):
        graph = sslgraph.load("dino", set={**changes, "nodes.encoder.drop_path": 0})
        losses.append(_compiled(graph)({"image": images, "index": torch.arange(8)}).loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)


def test_a_center_that_was_updated_before_its_use_cannot_be_written_down(
    method: Method, images: Tensor
) -> None:
    """Wherever the node stands in the file, its write follows every read of the batch."""
    batch = {"image": images, "index": torch.arange(8)}
    calls = [line for line in method.code.splitlines() if 'n["' in line]
    writes = [".write(" in line for line in calls]
    assert writes == sorted(writes)
    assert sum(writes) == 1
    graph = sslgraph.load("dino", set=SMALL)
    document = graph.document.data
    document["nodes"] = dict(reversed(list(document["nodes"].items())))
    for one in (method, _compiled(sslgraph.load(document))):
        torch.manual_seed(0)
        step = one(batch)
        logits = one.run({"batch.image": images}, ["teacher"], batch)["teacher"]
        center: Any = one.nodes["center"].center
        torch.testing.assert_close(center[0], logits.mean((0, 1)) / 10, rtol=1e-4, atol=1e-7)
        torch.manual_seed(0)
        with torch.no_grad():
            center.zero_()
        torch.testing.assert_close(one(batch).loss, step.loss, rtol=1e-6, atol=0)


def test_schedules_have_the_golden_values() -> None:
    nodes = sslgraph.load("dino").nodes
    temperature: Any = make_node("sharpen", **nodes["target"].settings).schedules["temperature"]
    values = [temperature.value(10 * epoch, 1000, 10) for epoch in (1, 15, 29, 99)]
    assert values == pytest.approx([0.0410345, 0.0555172, 0.07, 0.07], abs=1e-7)
    decay: Any = sslgraph.load("dino").train.weight_decay
    found = [decay.value(step, 1000, 10) for step in (250, 500, 999)]
    assert found == pytest.approx([0.0927208, 0.22, 0.3999991], abs=1e-7)


def test_it_fits_on_a_screen() -> None:
    """At most 55 lines of at most 100 columns as `show` prints it, presets not counted."""
    shown = sslgraph.load("dino").document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= 55
    assert max(map(len, shown)) <= 100
