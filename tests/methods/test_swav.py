"""SwAV as a graph against SwAV written by hand, its golden numbers, and its queue."""

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
from sslgraph.schedules import Time
from sslgraph.train.rates import Horizon
from tests.methods.distilled import (
    in_float64,
    pictures,
    require_equal,
    require_equal_gradients,
    updater_of,
)
from tests.methods.joint import require_rates, sizes_of
from tests.methods.swav_by_hand import Network, Trainer, cosine, make_crops, sinkhorn

SEED, BATCH, QUEUE, STARTS, FREEZE = 5, 8, 16, 2, 3
HIDDEN, DIM, COUNT = 12, 6, 10
RUN = Horizon(total_steps=12, steps_per_epoch=2)
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.hidden": HIDDEN,
    "vars.dim": DIM,
    "vars.prototypes": COUNT,
    "vars.queue": QUEUE,
    "nodes.crops.crops.global.size": 32,
    "nodes.crops.crops.local": {"views": 3, "size": 24, "scale": [0.05, 0.14]},
    "nodes.queue.from": "1 epoch",
    "nodes.prototypes.train.freeze": f"{FREEZE} steps",
    "train.batch_size": BATCH,
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(BATCH, 40)


@pytest.fixture
def method() -> Method:
    method = in_float64("swav", SMALL, SEED, RUN)
    nodes: Any = method.nodes
    nodes["prototypes"].constrain()  # of unit length to more digits than float32 has
    return method


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    trainer = Trainer(
        Network("test_resnet", HIDDEN, DIM).double(),
        COUNT,
        queue=QUEUE,
        starts=STARTS,
        freeze=FREEZE,
        rate=lambda step: cosine(0.6, 6e-4, step, RUN.total_steps),
    )
    for ours, theirs in _named(method, trainer):
        theirs.data.copy_(ours.data)
    return trainer


def _named(method: Method, hand: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter beside its own by hand."""
    nodes: Any = method.nodes
    network = hand.network
    yield from zip(nodes["encoder"].model.parameters(), network.backbone.parameters(), strict=True)
    yield from zip(nodes["projector"].layers.parameters(), network.head.parameters(), strict=True)
    yield nodes["prototypes"].v, hand.prototypes.weight


def _batch(images: Tensor, step: int) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(BATCH) + step * BATCH}


@pytest.mark.parametrize(
    ("group", "views", "size", "scale"),
    [("global", 2, 32, (0.14, 1.0)), ("local", 3, 24, (0.05, 0.14))],
)
def test_crops_are_those_of_the_documented_formula(
    group: str, views: int, size: int, scale: tuple[float, float], method: Method, images: Tensor
) -> None:
    """All of them with the same colours and blur; the first channel is divided by 0.228."""
    name = f"crops.{group}"
    made = method.run({"batch.image": images}, [name], _batch(images, 0))[name]
    expected = make_crops(images.float() / 255, SEED, name, views, size, scale)
    torch.testing.assert_close(made, expected.double(), rtol=0, atol=1e-4)


def test_six_steps_are_equal(method: Method, by_hand: Trainer, images: Tensor) -> None:
    """Without a queue, while it fills, and with it; with prototypes that wait and that train.

    Loss, gradients, weights and queue; unit prototypes, which stay to the bit while they wait.
    """
    updater = updater_of(method, SEED, RUN)
    nodes: Any = method.nodes
    first = nodes["prototypes"].v.detach().clone()
    for step in range(6):
        batch = _batch(images, step)
        views = method.run({"batch.image": images}, ["crops.global", "crops.local"], batch)
        counts = method.run({}, ["queue.weight"], batch)["queue.weight"]
        loss = by_hand.loss(views["crops.global"], views["crops.local"], step)
        assert bool(counts.all()) == by_hand.use_the_queue == (step >= 4)
        by_hand.backward(loss, step)
        done = updater.begin([batch], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-8, atol=0)
        require_equal_gradients(_named(method, by_hand))
        by_hand.update(step)
        assert updater.finish(done) == ""
        torch.testing.assert_close(nodes["prototypes"].v.norm(dim=1), torch.ones(COUNT).double())
        with torch.no_grad():  # by hand prototypes are scaled before the next forward pass
            weight = by_hand.prototypes.weight
            weight /= weight.norm(dim=1, keepdim=True)
        require_equal(_named(method, by_hand))
        _require_equal_queues(nodes["queue"], by_hand.queue)
        assert torch.equal(nodes["prototypes"].v, first) == (step < FREEZE)


def _require_equal_queues(ours: Any, theirs: Tensor | None) -> None:
    """By hand the newest batch comes first; here rows are a ring."""
    if theirs is None:
        assert not ours.rows.any()
        return
    newest_last = torch.cat(theirs.split(BATCH, dim=1)[::-1], dim=1)
    oldest_first = ours.rows.roll(-int(ours.place), dims=1)
    torch.testing.assert_close(oldest_first, newest_last, rtol=1e-7, atol=1e-12)


def test_a_wrong_wire_is_seen(by_hand: Trainer, images: Tensor) -> None:
    """The comparison can fail: each of these has another loss or other gradients."""
    wrong: list[dict[str, Any]] = [
        {"nodes.codes.per": "none"},
        {"nodes.loss.pairs": "all"},
        {"train.batch_norm": {"per": "view"}},
    ]
    for changes in wrong:
        method = in_float64("swav", {**SMALL, **changes}, SEED, RUN)
        for ours, theirs in _named(method, by_hand):
            theirs.data.copy_(ours.data)
        views = method.run(
            {"batch.image": images}, ["crops.global", "crops.local"], _batch(images, 0)
        )
        theirs = by_hand.loss(views["crops.global"], views["crops.local"], 0)
        ours = method(_batch(images, 0)).loss
        assert (ours - theirs).abs() > 1e-5, changes


def test_the_golden_loss() -> None:
    """Two crops of four samples, three prototypes: each predicts the codes of the other."""
    scores = torch.tensor(
        [
            [[0.9, 0.1, 0], [0.8, 0.2, 0.1], [0.7, 0, 0.6], [0.5, 0.4, 0.3]],
            [[0.8, 0, 0.1], [0.7, 0.3, 0], [0.6, 0.1, 0.5], [0.2, 0.6, 0.1]],
        ]
    )
    codes = make_node("sinkhorn", temperature=0.05, per="view")(scores)
    loss = make_node("soft_cross_entropy", temperature=0.1)
    assert loss(prediction=scores, target=codes).item() == pytest.approx(0.714844, abs=2e-6)
    for crop, value in ((0, 0.634814), (1, 0.794874)):  # predicted by the other one
        one = loss.eval()(prediction=scores[1 - crop][None], target=codes[crop][None])
        assert one.item() == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("crops", [2, 5, 8])
def test_chance_is_the_same_for_any_number_of_crops(crops: int) -> None:
    scores = torch.zeros(crops, 6, 3000)
    codes = make_node("sinkhorn", temperature=0.05, per="view")(scores[:2])
    loss: Any = make_node("soft_cross_entropy", temperature=0.1)
    found = loss(prediction=scores, target=codes)
    assert found.item() == pytest.approx(8.006368, abs=1e-5)
    assert loss.chance({"V": crops, "V'": 2, "K": 3000}) == pytest.approx(math.log(3000))


def test_codes_and_queue_are_scored_with_the_prototypes_of_the_step(
    method: Method, images: Tensor
) -> None:
    nodes: Any = method.nodes
    with torch.no_grad():
        nodes["queue"].rows.copy_(torch.randn(2, QUEUE, DIM))
        nodes["queue"].stored.fill_(QUEUE)
        nodes["prototypes"].v.copy_(nodes["prototypes"].v.flip(0))
    fetch = ["projector", "prototypes", "queue_scores", "codes"]
    made = method.run({}, fetch, _batch(images, 0))
    now = nodes["prototypes"].v
    torch.testing.assert_close(made["queue_scores"], nodes["queue"].rows @ now.T)
    for crop in range(2):
        scores = torch.cat([made["queue_scores"][crop], made["projector"][crop] @ now.T])
        expected = sinkhorn(scores.detach())[-BATCH:]
        torch.testing.assert_close(made["codes"][crop], expected)
    assert not made["codes"].requires_grad


def test_the_queue_is_read_before_it_is_written(method: Method) -> None:
    calls = [line for line in method.code.splitlines() if 'n["' in line]
    writes = [".write(" in line for line in calls]
    assert writes == sorted(writes)
    assert sum(writes) == 1


def test_pairs_and_parameters() -> None:
    """No crop predicts a code of its own; a head of the published size."""
    graph = sslgraph.load("swav")
    expected = {(i, j) for i in range(8) for j in range(2) if i != j}
    assert set(make_plan(graph).step("loss").pairs) == expected
    parameters = sizes_of("swav").parameters
    counts = [parameters[name] for name in ("projector", "prototypes", "encoder")]
    assert counts == [4_462_720, 384_000, 23_508_032]


def test_the_recipe() -> None:
    """Of `swav_400ep_bs256_pretrain.sh`: 5004 batches of 256 are an epoch."""
    graph = sslgraph.load("swav")
    run = Horizon.of(graph.train, 1281167)
    assert (run.steps_per_epoch, run.total_steps) == (5004, 400 * 5004)
    half = 200 * 5004
    require_rates(graph, run, {0: 0.6, half: (0.6 + 6e-4) / 2, run.total_steps: 6e-4})
    _require_trained_alike(graph)
    of_prototypes: Any = graph.nodes["prototypes"].train
    assert (of_prototypes.freeze, of_prototypes.how) == (Time(5005, "steps"), "no_grad")
    queue = graph.nodes["queue"].settings
    assert (queue["size"], queue["from"], queue["start"]) == (3840, "15 epochs", "empty")
    assert queue["size"] % graph.train.batch_size == 0
    crops = graph.nodes["crops"].settings["crops"]
    assert crops["global"] == {"views": 2, "size": 224, "scale": [0.14, 1]}
    assert crops["local"] == {"views": 6, "size": 96, "scale": [0.05, 0.14]}


def test_the_large_batch_has_no_queue() -> None:
    """Of `swav_800ep_pretrain.sh`: 64 processes with 64 images each have 312 batches an epoch."""
    graph = sslgraph.load("swav", preset="large_batch")
    assert not {"queue", "queue_scores"} & graph.nodes.keys()
    run = Horizon.of(graph.train, 1281167)
    assert (run.steps_per_epoch, run.total_steps) == (312, 800 * 312)
    of_prototypes: Any = graph.nodes["prototypes"].train
    assert of_prototypes.freeze == Time(313, "steps")
    expected = {0: 0.3, 5 * 312: 2.55, 10 * 312: 4.8, 405 * 312: 2.4024, run.total_steps: 4.8e-3}
    require_rates(graph, run, expected)
    _require_trained_alike(graph)


def _require_trained_alike(graph: sslgraph.Graph) -> None:
    """What no script changes: LARC on every tensor, and the temperatures of codes and scores."""
    spec = graph.train
    assert (spec.optimizer, spec.weight_decay, spec.no_decay) == ("larc", 1e-6, [])
    assert (spec.momentum, spec.trust_coefficient) == (0.9, 1e-3)
    codes: Any = make_node("sinkhorn", **graph.nodes["codes"].settings)
    assert (codes.config.temperature, codes.config.iterations) == (0.05, 3)
    assert graph.nodes["loss"].settings["temperature"] == 0.1


def test_the_first_loss_of_views_that_have_nothing_in_common() -> None:
    """A little above chance: ln K + 1 / (2 D T^2) = 8.397 for unit rows in random directions.

    Their cosines with prototypes are nearly normal, of variance 1/D, and the codes of one view say
    nothing of the scores of another.
    """
    generator = torch.Generator().manual_seed(0)
    z, prototypes = (
        torch.nn.functional.normalize(torch.randn(*shape, 128, generator=generator), dim=-1)
        for shape in ((2, 256), (3000,))
    )
    scores = z @ prototypes.T
    codes = make_node("sinkhorn", temperature=0.05, per="view")(scores)
    found = make_node("soft_cross_entropy", temperature=0.1)(prediction=scores, target=codes)
    assert found.item() == pytest.approx(8.006368 + 1 / (2 * 128 * 0.01), abs=0.05)


def test_a_queue_that_is_not_full_takes_no_part(method: Method, images: Tensor) -> None:
    """Whatever its rows are: the codes are those of the batch alone."""
    nodes: Any = method.nodes
    made = method.run({}, ["prototypes", "codes"], _batch(images, 0))
    with torch.no_grad():
        nodes["queue"].rows.copy_(torch.randn(2, QUEUE, DIM))
        nodes["queue"].stored.fill_(QUEUE - 1)
    again = method.run({}, ["codes"], _batch(images, 0))["codes"]
    for crop in range(2):
        expected = sinkhorn(made["prototypes"][crop].detach())
        torch.testing.assert_close(made["codes"][crop], expected)
        torch.testing.assert_close(again[crop], expected)


def test_it_fits_on_a_screen() -> None:
    shown = sslgraph.load("swav").document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= 55
    assert max(map(len, shown)) <= 100
