"""DeepCluster-v2 as a graph against the same written by hand, and what its banks do over epochs."""

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
from sslgraph.train.rates import Horizon
from tests.methods.deepcluster_v2_by_hand import HEADS, Trainer
from tests.methods.distilled import (
    in_float64,
    pictures,
    require_equal,
    require_equal_gradients,
    updater_of,
)
from tests.methods.joint import require_rates, sizes_of
from tests.methods.swav_by_hand import Network, cosine, make_crops

SEED, BATCH, IMAGES, COUNT = 7, 8, 20, 4
HIDDEN, DIM, PEAK, END = 12, 6, 2.0, 0.01
RUN = Horizon(total_steps=8, steps_per_epoch=2)
CROPS = ["crops.global", "crops.local"]
SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.hidden": HIDDEN,
    "vars.dim": DIM,
    "vars.prototypes": COUNT,
    "vars.images": IMAGES,
    "nodes.crops.crops.global.size": 32,
    "nodes.crops.crops.local": {"views": 2, "size": 24, "scale": [0.05, 0.14]},
    "train.batch_size": BATCH,
    "train.batch_norm": {"ranks": "all", "groups": 1},
    "train.lr": {"peak": PEAK, "end": END, "start": 0, "warmup": "0 steps"},
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Two batches, of images 0 to 15 of 20."""
    return pictures(2 * BATCH, 40).view(2, BATCH, 3, 40, 40)


@pytest.fixture
def method() -> Method:
    return in_float64("deepcluster_v2", SMALL, SEED, RUN)


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    network = Network("test_resnet", HIDDEN, DIM).double()
    trainer = Trainer(
        network, COUNT, IMAGES, SEED, lambda step: cosine(PEAK, END, step, RUN.total_steps)
    )
    for ours, theirs in _named(method, trainer):
        theirs.data.copy_(ours.data)
    return trainer


def _named(method: Method, hand: Trainer, what: str = "parameters") -> Iterator[Any]:
    nodes: Any = method.nodes
    network = hand.network
    for ours, theirs in (
        (nodes["encoder"].model, network.backbone),
        (nodes["projector"].layers, network.head),
    ):
        yield from zip(getattr(ours, what)(), getattr(theirs, what)(), strict=True)


def _batch(images: Tensor, step: int) -> dict[str, Tensor]:
    """The order differs between epochs, so a position in the run is no number of an image."""
    numbers = torch.arange(BATCH) + (step + step // 2) % 2 * BATCH
    shown = images[(step + step // 2) % 2]
    return {"image": shown, "index": torch.arange(BATCH) + step * BATCH, "sample": numbers}


@pytest.mark.parametrize(
    ("group", "size", "scale"), [("global", 32, (0.08, 1.0)), ("local", 24, (0.05, 0.14))]
)
def test_crops_are_those_of_the_documented_formula(
    group: str, size: int, scale: tuple[float, float], method: Method, images: Tensor
) -> None:
    """Colours, blur and channels of SwAV."""
    name, shown = f"crops.{group}", images[0]
    made = method.run({"batch.image": shown}, [name], _batch(images, 0))[name]
    expected = make_crops(shown.float() / 255, SEED, name, 2, size, scale)
    torch.testing.assert_close(made, expected.double(), rtol=0, atol=1e-4)


def test_two_and_a_half_epochs_are_equal(method: Method, by_hand: Trainer, images: Tensor) -> None:
    """Loss, gradients, weights, running statistics, labels and centroids.

    By hand the first epoch is a pass without gradient; here it is one whose loss is 0, after which
    weights are what they were to the bit.
    """
    updater = updater_of(method, SEED, RUN)
    first = [ours.detach().clone() for ours, _ in _named(method, by_hand)]
    for step in range(5):
        batch = _batch(images, step)
        views = method.run({"batch.image": batch["image"]}, CROPS, batch)
        groups = [views[name] for name in CROPS]
        done = updater.begin([batch], step)
        if step < 2:
            by_hand.fill(groups, batch["sample"])
            assert done.loss.item() == done.norm.item() == 0
        else:
            loss = by_hand.loss(groups, batch["sample"])
            by_hand.backward(loss)
            torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-7, atol=0)
            require_equal_gradients(_named(method, by_hand))
            by_hand.update(step)
        assert updater.finish(done) == ""
        if step < 2:
            now = [ours for ours, _ in _named(method, by_hand)]
            assert all(torch.equal(a, b) for a, b in zip(now, first, strict=True))
        if step % 2:
            by_hand.cluster(step // 2)
            _require_equal_banks(method, by_hand)
        require_equal(_named(method, by_hand))
        for ours, theirs in _named(method, by_hand, "buffers"):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def _require_equal_banks(method: Method, hand: Trainer) -> None:
    nodes: Any = method.nodes
    heads = zip(HEADS, hand.assignments, hand.prototypes, strict=True)
    for name, assignments, prototypes in heads:
        assert torch.equal(nodes[name].labels, assignments.clamp(min=-1))
        assert len(nodes[name].labels[:16].unique()) == COUNT
        torch.testing.assert_close(nodes[name].means, prototypes, rtol=0, atol=1e-6)
    assert not torch.equal(nodes["bank_a"].means, nodes["bank_c"].means)


def test_a_wrong_wire_is_seen(method: Method, by_hand: Trainer, images: Tensor) -> None:
    """The comparison can fail: each of these has another loss."""
    updater = updater_of(method, SEED, RUN)
    for step in range(2):
        batch = _batch(images, step)
        views = method.run({"batch.image": batch["image"]}, CROPS, batch)
        by_hand.fill([views[name] for name in CROPS], batch["sample"])
        assert updater.finish(updater.begin([batch], step)) == ""
    by_hand.cluster(0)
    batch = _batch(images, 2)
    views = method.run({"batch.image": batch["image"]}, CROPS, batch)
    expected = by_hand.loss([views[name] for name in CROPS], batch["sample"])
    wrong: list[dict[str, Any]] = [
        {},
        {"nodes.scores_b.in": {"x": "projector", "weight": "bank_a.centroids"}},
        {"nodes.loss_b.in": {"prediction": "scores_b", "target": "bank_a"}},
    ]
    for changes in wrong:
        other = in_float64("deepcluster_v2", {**SMALL, **changes}, SEED, RUN)
        other.load_state_dict(method.state_dict())
        off = (other(batch).loss - expected).abs()
        assert (off > 1e-4) == bool(changes), changes


def test_labels_and_prototypes_stay_for_an_epoch(method: Method, images: Tensor) -> None:
    """Prototypes are the centroids to the bit, and all crops of an image have one label."""
    updater, nodes = updater_of(method, SEED, RUN), method.nodes
    for step in range(4):
        batch = _batch(images, step)
        fetch = ["bank_a.label", "bank_a.centroids", "projector", "scores_a"]
        made = method.run({}, fetch, batch)
        if step == 2:
            known = made["bank_a.centroids"]
        if step >= 2:
            bank: Any = nodes["bank_a"]
            assert torch.equal(made["bank_a.centroids"], known)
            assert torch.equal(made["bank_a.label"][0], bank.labels[batch["sample"]])
            assert (made["bank_a.label"] >= 0).all()
            torch.testing.assert_close(made["scores_a"], made["projector"] @ known[0].T)
        assert updater.finish(updater.begin([batch], step)) == ""
    of_projector = {name: count for name, count in _parameters(method).items() if count}
    assert set(of_projector) == {"encoder", "projector"}


def _parameters(method: Method) -> dict[str, int]:
    return {
        name: sum(p.numel() for p in node.parameters())
        for name, node in method.nodes.items()
        if name not in ("local",)
    }


@pytest.mark.parametrize("crops", [2, 6, 8])
def test_chance_is_the_same_for_any_number_of_crops(crops: int) -> None:
    loss: Any = make_node("cross_entropy", temperature=0.1, pairs="all")
    found = loss(prediction=torch.zeros(crops, 5, 3000), target=torch.zeros(1, 5).long())
    assert found.item() == pytest.approx(math.log(3000), abs=1e-5)


def test_heads_use_the_crops_in_turn() -> None:
    """Head h has the embeddings of crop h mod 2; every process sees a data set of that size."""
    graph = sslgraph.load("deepcluster_v2")
    stored = [graph.nodes[name].inputs["x"][0].text for name in HEADS]
    assert stored == ["projector.0", "projector.1", "projector.0"]
    assert {graph.nodes[name].settings["size"] for name in HEADS} == {1281167}


def test_sizes_of_the_published_networks() -> None:
    """The head of SwAV; 3000 x 128 prototypes a head, none of which is a parameter."""
    sizes = sizes_of("deepcluster_v2")
    assert sizes.parameters["encoder"] == 23_508_032
    assert sizes.parameters["projector"] == 4_462_720
    for name in HEADS:
        assert sizes.parameters[name] == 0
        assert sizes.shapes[name, "centroids"][-2:] == (3000, 128)


def test_the_recipe() -> None:
    """Of `deepclusterv2_400ep_pretrain.sh`, with 64 processes of 64 images each."""
    graph = sslgraph.load("deepcluster_v2")
    run = Horizon.of(graph.train, 1281167)
    assert (run.steps_per_epoch, run.total_steps) == (312, 400 * 312)
    expected = {0: 0.3, 5 * 312: 2.55, 10 * 312: 4.8, 205 * 312: 2.4024, run.total_steps: 4.8e-3}
    require_rates(graph, run, expected)
    spec = graph.train
    assert (spec.optimizer, spec.weight_decay, spec.no_decay) == ("larc", 1e-6, [])
    assert spec.amp == "none"  # there is no mixed precision in `main_deepclusterv2.py`
    crops = graph.nodes["crops"].settings["crops"]
    assert crops["global"] == {"views": 2, "size": 160, "scale": [0.08, 1]}
    assert crops["local"] == {"views": 4, "size": 96, "scale": [0.05, 0.14]}
    for name in HEADS:
        settings = {**graph.nodes[name].settings, "count": 3, "size": 9}
        bank: Any = make_node("kmeans_bank", axes={"D": 2}, **settings)
        assert bank.config.iterations == 10


def test_it_fits_on_a_screen() -> None:
    shown = sslgraph.load("deepcluster_v2").document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= 60
    assert max(map(len, shown)) <= 100
