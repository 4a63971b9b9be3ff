"""Neighbours in a bank against numpy, and in a graph whose bank is a queue of the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.nodes.base import make_node
from sslgraph.plan import make_plan
from tests.nodes.view_losses import A, B

HALF = 0.5**0.5
Q4 = [[HALF, HALF], [-HALF, HALF], [0.0, -1.0], [1.0, 0.0]]

GRAPH: dict[str, Any] = {
    "sslgraph": 1,
    "nodes": {
        "views": {"use": "augment", "in": "batch.image", "views": 2, "size": 16, "ops": []},
        "encoder": {"use": "encoder", "in": "views", "arch": "test_resnet"},
        "queue": {"use": "queue", "in": "encoder.embedding.0", "size": 6},
        "neighbour": {"use": "nearest", "in": {"x": "encoder.embedding", "bank": "queue"}},
        "predictor": {"use": "predictor", "in": "encoder.embedding", "hidden": [8], "out": 96},
        "loss": {
            "use": "info_nce",
            "in": {"query": "neighbour", "positive": "predictor"},
            "temperature": 0.1,
        },
    },
    "minimize": {"loss": 1.0},
    "train": {"batch_size": 4, "steps": 3},
}


@pytest.fixture
def z() -> Tensor:
    return torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_goldens() -> None:
    """The rows and the loss of NNCLR where both predictions are the projections."""
    z = torch.tensor([A, B], dtype=torch.float64)
    bank = torch.tensor([Q4], dtype=torch.float64)
    found = make_node("nearest")(z, bank)
    assert torch.equal(found, bank[0, torch.tensor([[0, 3, 0], [0, 2, 1]])])
    loss = make_node("info_nce", temperature=0.1)
    loss.temperature = torch.tensor(0.1, dtype=torch.float64)
    assert loss(found, z).item() == pytest.approx(3.002588, abs=1e-6)


def test_cosine_decides_and_rows_stay_as_they_are(z: Tensor) -> None:
    bank = np.random.default_rng(0).normal(size=(3, 11, 7)) * 10.0 ** np.arange(11)[:, None]
    rows = bank.reshape(33, 7)
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    expected = rows[(z.numpy() @ unit.T).argmax(-1)]
    node = make_node("nearest")
    for scale in (1.0, 1e-4):
        found = node(z * scale, torch.from_numpy(bank))
        np.testing.assert_array_equal(found, expected)


def test_no_gradient_passes(z: Tensor) -> None:
    bank = z.flip(1).clone().requires_grad_()
    found = make_node("nearest")(z.requires_grad_(), bank)
    assert not found.requires_grad


def test_half_precision_does_not_choose(z: Tensor) -> None:
    """Under autocast two cosines that differ in the fourth digit are told apart."""
    x = torch.tensor([[[1.0, 0.0]]])
    bank = torch.tensor([[[1.0, 0.03], [1.0, 0.02], [1.0, 0.025]]])
    with torch.autocast("cpu", torch.bfloat16):
        found = make_node("nearest")(x, bank)
    assert torch.equal(found, bank[:, 1:2])


def test_rows_of_a_batch_do_not_find_themselves() -> None:
    """The bank is that of earlier batches, whatever the order of nodes in the file."""
    graph = sslgraph.load(GRAPH)
    assert not sslgraph.check(graph)
    method = sslgraph.compile(graph, seed=1)
    queue: Any = method.nodes["queue"]
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = {"image": images, "index": torch.arange(4)}
    kept: list[Tensor] = []
    method.nodes["neighbour"].register_forward_hook(lambda node, given, made: kept.append(made))
    before = queue.rows.clone()
    method(batch)
    method.after_step()
    stored = queue.rows[0, :4].clone()
    method(batch)
    first, second = kept
    assert all((row == before[0]).all(-1).any() for row in first.flatten(0, 1))
    assert not (first[0, :, None] == stored).all(-1).any()
    # the second time the images meet what the first time stored: each row of view 0 finds itself
    assert torch.equal(second[0], stored)


def test_a_neighbour_stands_for_its_view() -> None:
    """`pairs: cross` compares the neighbour of a view with the other view's prediction."""
    plan = make_plan(sslgraph.load(GRAPH))
    assert plan.identities["neighbour", "y"] == ("views.0", "views.1")
    assert plan.step("loss").pairs == ((0, 1), (1, 0))
