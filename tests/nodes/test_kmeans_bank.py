"""The bank against plain k-means in numpy, what an epoch is to it, and two processes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import sslgraph
from sslgraph.data.digits import EmbeddedDigits
from sslgraph.errors import GraphError
from sslgraph.hashing import mix
from sslgraph.nodes.base import Context, make_node
from sslgraph.nodes.kmeans import KmeansBank, spherical_kmeans
from sslgraph.train import train
from tests.conftest import OnRanks
from tests.toys import compiled, graph, images

Array = NDArray[np.float64]

NODES: dict[str, Any] = {
    "views": {"use": "toy_noise", "in": "batch.image"},
    "pixels": {"use": "toy_pixels", "in": "views"},
    "head": {"use": "toy_scale", "in": "pixels"},
    "bank": {"use": "kmeans_bank", "in": {"x": "head.0"}, "count": 3, "size": 20},
    "scores": {"use": "prototypes", "in": {"x": "head", "weight": "bank.centroids"}},
    "loss": {
        "use": "cross_entropy",
        "in": {"prediction": "scores", "target": "bank"},
        "pairs": "all",
    },
}
STEPS, BATCH = 3, 5


def batch(step: int) -> dict[str, Tensor]:
    """Three batches an epoch, which show images 0 to 14 of 20."""
    sample = torch.arange(BATCH) + step % STEPS * BATCH
    return {
        "image": images(seed=step),
        "index": torch.arange(BATCH) + step * BATCH,
        "sample": sample,
    }


def clustering(**changes: Any) -> Any:
    method = compiled({**NODES, "bank": {**NODES["bank"], **changes}})
    method.clock.set(total_steps=12, steps_per_epoch=STEPS)
    return method


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(-1, keepdim=True).sqrt()


def by_hand(rows: Array, centroids: Array, iterations: int) -> tuple[NDArray[np.int64], Array]:
    """One row after the other, one centroid after the other."""
    centroids = centroids.copy()
    for _ in range(iterations):
        labels = np.array([np.argmax([row @ c for c in centroids]) for row in rows])
        for k in range(len(centroids)):
            if (labels == k).any():
                total = rows[labels == k].sum(0)
                centroids[k] = total / np.sqrt(total @ total)
    return np.array([np.argmax([row @ c for c in centroids]) for row in rows]), centroids


def test_the_golden_numbers_of_spherical_kmeans() -> None:
    rows = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]])
    labels, centroids = spherical_kmeans(rows, torch.eye(2), 10)
    assert labels.tolist() == [0, 0, 1, 1]
    expected = torch.tensor([[0.948683, 0.316228], [-0.316228, 0.948683]])
    torch.testing.assert_close(centroids, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("iterations", [1, 4, 10])
def test_kmeans_is_that_of_plain_loops(iterations: int) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = unit(torch.randn(40, 3, generator=generator, dtype=torch.float64))
    labels, centroids = spherical_kmeans(rows, rows[:5].clone(), iterations)
    theirs = by_hand(rows.numpy(), rows[:5].numpy(), iterations)
    assert labels.tolist() == theirs[0].tolist()
    torch.testing.assert_close(centroids, torch.from_numpy(theirs[1]))


def test_a_cluster_without_rows_stays() -> None:
    rows = unit(torch.tensor([[1.0, 0.1], [1, -0.1], [1, 0]]))
    start = torch.tensor([[1.0, 0], [-1, 0]])
    labels, centroids = spherical_kmeans(rows, start, 10)
    assert labels.tolist() == [0, 0, 0]
    assert torch.equal(centroids[1], start[1])


def test_an_epoch_without_labels_then_those_of_the_epoch_before() -> None:
    """Labels and centroids hold for a whole epoch; the loss of the first one is 0."""
    method = clustering(iterations=4)
    bank = method.nodes["bank"]
    assert torch.equal(bank.labels, torch.full((20,), -1))
    known: dict[int, Tensor] = {}
    for step in range(STEPS * 3):
        made = method.run({}, ["head.0", "bank.label", "bank.centroids"], batch(step))
        before = copy.deepcopy(bank.state_dict())
        loss = method(batch(step)).loss
        loss.backward()
        assert (loss == 0) == (step < STEPS)
        rows = unit(made["head.0"][0].detach())
        known.update(zip(batch(step)["sample"].tolist(), rows, strict=True))
        assert torch.equal(made["bank.label"][0], before["labels"][batch(step)["sample"]])
        assert torch.equal(made["bank.centroids"][0], before["means"])
        for name in ("labels", "means", "epochs"):
            assert torch.equal(bank.state_dict()[name], before[name]), name
        method.after_step()
        if (step + 1) % STEPS:
            assert torch.equal(bank.labels, before["labels"])
            continue
        epoch = step // STEPS
        expected = clustered(known, Context("bank").key(), epoch)
        assert bank.labels.tolist() == [*expected[0], *[-1] * 5]
        torch.testing.assert_close(bank.means.double(), torch.from_numpy(expected[1]))
        known.clear()


def clustered(known: dict[int, Tensor], key: int, epoch: int) -> tuple[list[int], Array]:
    """Start from the three images whose hashes are the smallest."""
    numbers = sorted(known)
    rows = np.stack([known[n].double().numpy() for n in numbers])
    order = sorted(range(len(numbers)), key=lambda i: int(mix(key, epoch, numbers[i])))
    labels, centroids = by_hand(rows, rows[order[:3]], 4)
    return labels.tolist(), centroids


def test_an_image_that_an_epoch_did_not_show_is_unknown_in_the_next() -> None:
    node: Any = KmeansBank(axes={"D": 2}, context=Context("bank"), count=2, size=4)
    for shown in ([0, 1, 2, 3], [0, 2, 3]):
        x = torch.randn(1, len(shown), 2, generator=torch.Generator().manual_seed(1))
        node.write(x=x, index=torch.tensor([shown]))
        node.commit()
        assert (node.labels >= 0).nonzero().flatten().tolist() == shown


def test_another_start_each_epoch_and_for_each_node() -> None:
    def labels(name: str, epochs: int) -> Tensor:
        node: Any = KmeansBank(axes={"D": 3}, context=Context(name), count=8, size=64, iterations=1)
        x = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
        for _ in range(epochs):
            node.write(x=x, index=torch.arange(64)[None])
            node.commit()
        means: Tensor = node.means
        return means

    assert torch.equal(labels("a", 1), labels("a", 1))
    assert not torch.equal(labels("a", 1), labels("b", 1))
    assert not torch.equal(labels("a", 1), labels("a", 2))


def test_no_gradient_and_no_parameter() -> None:
    method = clustering()
    assert not list(method.nodes["bank"].parameters())
    assert not list(method.nodes["scores"].parameters())
    for step in range(4):
        made = method.run({}, ["bank.centroids"], batch(step))["bank.centroids"]
        assert not made.requires_grad
        method(batch(step)).loss.backward()
        method.after_step()
    assert all(p.grad is not None for p in method.nodes["head"].parameters())


def test_evaluation_knows_no_labels_and_stores_nothing() -> None:
    method = clustering()
    for step in range(STEPS):
        method(batch(step)).loss.backward()
        method.after_step()
    state = copy.deepcopy(method.nodes["bank"].state_dict())
    method.eval()
    label = method.run({}, ["bank.label"], batch(0))["bank.label"]
    assert torch.equal(label, torch.full((1, BATCH), -1))
    method(batch(0))
    for name, value in method.nodes["bank"].state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_run_that_resumes_goes_on_with_labels_and_rows() -> None:
    straight, resumed = clustering(), clustering()
    for step in range(STEPS + 1):
        straight(batch(step)).loss.backward()
        straight.after_step()
    resumed.load_state_dict(straight.state_dict())
    for step in range(STEPS + 1, 2 * STEPS):
        for method in (straight, resumed):
            method(batch(step)).loss.backward()
            method.after_step()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_without_numbers_of_images_it_says_what_is_missing() -> None:
    method = clustering()
    part = {name: value for name, value in batch(0).items() if name != "sample"}
    with pytest.raises(ValueError, match=r"reads batch\.sample.*number of each image"):
        method(part)


def test_a_number_beyond_the_bank_is_refused() -> None:
    method = clustering(size=12)
    method(batch(0))
    with pytest.raises(ValueError, match="bank: image number 14 is not in a bank of 12 images"):
        method(batch(2))


def test_an_epoch_of_unknown_length_is_refused() -> None:
    method = compiled(NODES)
    with pytest.raises(GraphError, match="bank follows the run, but the length of an epoch"):
        method(batch(0))


def test_too_few_images_for_the_clusters() -> None:
    with pytest.raises(ValueError, match="30 clusters of 20 images"):
        make_node("kmeans_bank", count=30, size=20)
    node: Any = KmeansBank(axes={"D": 2}, context=Context("bank"), count=3, size=20)
    node.write(x=torch.randn(1, 2, 2), index=torch.tensor([[0, 7]]))
    with pytest.raises(ValueError, match="bank: an epoch showed 2 images, too few for 3 clusters"):
        node.commit()


def test_a_data_set_that_does_not_fit_stops_a_run_at_its_line(tmp_path: Path) -> None:
    source = EmbeddedDigits("train")
    for settings, line, text in (
        ({"size": 100}, "size", f"the data set has {len(source)} images, the bank has room for"),
        ({"size": 9000, "count": 8000}, "count", f"{len(source)} images can't make 8000 clusters"),
    ):
        nodes = {**NODES, "bank": {**NODES["bank"], **settings}}
        with pytest.raises(GraphError, match=text) as caught:
            train(graph(nodes), source, out=tmp_path / "run", device="cpu")
        assert f"nodes.bank.{line}" in caught.value.problems[0].span.text
        assert not (tmp_path / "run").exists()


def test_prototypes_without_a_number_or_rows_are_refused() -> None:
    nodes = {**NODES, "scores": {"use": "prototypes", "in": "head"}}
    codes = {problem.code: problem for problem in sslgraph.check(graph(nodes))}
    assert "nothing says how many prototypes there are" in codes["E210"].title
    assert "count: 4096" in codes["E210"].help


def test_given_prototypes_are_scored_as_they_come() -> None:
    x, rows = torch.randn(2, 4, 3), 5 * torch.randn(1, 6, 3)
    node: Any = make_node("prototypes")
    torch.testing.assert_close(node(x, weight=rows), x @ rows[0].T)
    assert not list(node.parameters())


def rank_of_a_bank(rank: int, rows: Tensor) -> list[Tensor]:
    node: Any = KmeansBank(axes={"D": 4}, context=Context("bank"), count=5, size=30, iterations=6)
    node.double()
    for step in range(3):
        mine = torch.arange(rank * 5, rank * 5 + 5) + step * 10
        node.write(x=rows[None, mine], index=mine[None])
    node.commit()
    return [node.rows, node.labels, node.means]


def test_two_processes_cluster_as_one(on_ranks: OnRanks) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    first, second = on_ranks(rank_of_a_bank, rows)
    node: Any = KmeansBank(axes={"D": 4}, context=Context("bank"), count=5, size=30, iterations=6)
    node.double()
    node.write(x=rows[None], index=torch.arange(30)[None])
    node.commit()
    for found in (first, second):
        assert torch.equal(found[0], node.rows)
        assert torch.equal(found[1], node.labels)
        torch.testing.assert_close(found[2], node.means)
    assert torch.equal(first[2], second[2])
