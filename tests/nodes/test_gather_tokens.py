"""Rows of hidden places: which ones, in what order, with what weight, for even and ragged masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.checks.masks import UNLIKE, together
from sslgraph.nodes.base import Context, make_node
from sslgraph.ports import Visible
from sslgraph.registry import find
from tests.conftest import OnRanks


def gather(kept: Visible | None = None, *, training: bool = True) -> Any:
    context = Context("gather", kept={} if kept is None else {"mask": kept})
    return find("gather_tokens").module(context=context).train(training)


@pytest.fixture
def ragged() -> Tensor:
    """Three, no and one hidden places."""
    return torch.tensor([[[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]]]).bool()


def test_hidden_places_in_raster_order(ragged: Tensor) -> None:
    x = torch.arange(3 * 5 * 2.0).view(1, 3, 5, 2)
    made = gather()(x, ragged)
    assert made.y.shape == (1, 3, 3, 2)
    assert made.y[0, 0].tolist() == x[0, 0, [0, 2, 4]].tolist()
    assert made.y[0, 2, 0].tolist() == x[0, 2, 3].tolist()
    third = 1 / 3
    expected = torch.tensor([[[third, third, third], [0, 0, 0], [1, 0, 0]]]) / 3
    torch.testing.assert_close(made.weight, expected)


def test_padding_is_a_row_of_the_same_image(ragged: Tensor) -> None:
    x = torch.randn(1, 3, 5, 2)
    made = gather(Visible(1, 5, "count: exact"))(x, ragged)
    assert made.y.shape == (1, 3, 4, 2)
    for image in range(3):
        rows = {tuple(row.tolist()) for row in x[0, image]}
        assert {tuple(row.tolist()) for row in made.y[0, image]} <= rows


def test_the_weighted_sum_is_the_mean_over_images(ragged: Tensor) -> None:
    """Of means over hidden places, an image without any counting as zero."""
    values = torch.rand(1, 3, 5, 1, dtype=torch.float64)
    made = gather()(values, ragged)
    found = (made.weight * made.y.squeeze(-1)).sum().item()
    v, hidden = values[0, :, :, 0].numpy(), ragged[0].numpy()
    expected = np.mean([v[i][hidden[i]].mean() if hidden[i].any() else 0.0 for i in range(3)])
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_weighted_sum_is_the_mean_over_hidden_places(ragged: Tensor) -> None:
    """With `average: batch` each of the four counts alike."""
    values = torch.rand(1, 3, 5, 1, dtype=torch.float64)
    made = find("gather_tokens").module(average="batch")(values, ragged)
    found = (made.weight * made.y.squeeze(-1)).sum().item()
    assert found == pytest.approx(values[..., 0].numpy()[ragged.numpy()].mean(), rel=1e-6)
    assert not find("gather_tokens").module(average="batch")(values, ragged & False).weight.any()


def weights_on_one_rank(rank: int, mask: Tensor) -> Tensor:
    node = find("gather_tokens").module(average="batch")
    weight: Tensor = node(torch.zeros(1, 1, 5, 1), mask[:, rank : rank + 1]).weight
    return weight


def test_over_processes_every_hidden_place_counts_alike(on_ranks: OnRanks) -> None:
    """Three places in one and one in the other: a quarter each, and gradients are averaged."""
    mask = torch.tensor([[[1, 0, 1, 0, 1], [0, 0, 0, 1, 0]]]).bool()
    first, second = on_ranks(weights_on_one_rank, mask)
    assert first.flatten().tolist() == [0.5, 0.5, 0.5]
    assert second.flatten().tolist() == [0.5]


def test_labels_and_several_masks_of_one_view() -> None:
    labels = torch.tensor([[[7, 8, 9, 10]]])
    mask = torch.tensor([[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 0, 1]]]).bool()
    made = gather()(labels, mask)
    assert made.y.dtype == torch.int64
    assert made.y.flatten().tolist() == [7, 8, 10]
    assert made.weight.flatten().tolist() == [1, 1, 1]


def test_the_gradient_goes_to_hidden_places(ragged: Tensor) -> None:
    x = torch.randn(1, 3, 5, 2, requires_grad=True)
    made = gather()(x, ragged)
    torch.autograd.backward((made.y * made.weight[..., None]).sum())
    assert x.grad is not None
    assert torch.equal(x.grad[0, :, :, 0] != 0, ragged[0])


@pytest.mark.parametrize(
    ("kept", "training", "rows"),
    [
        (Visible(2, 2), True, 3),
        (Visible(2, 2), False, 3),
        (Visible(1, 4), True, 3),  # counted in the batch
        (Visible(1, 4), False, 4),  # nothing is hidden then
        (Visible(1, 5, "share: 1"), True, 4),
        (None, True, 3),
    ],
)
def test_the_number_of_rows(kept: Visible | None, training: bool, rows: int) -> None:
    mask = torch.tensor([[[1, 0, 1, 0, 1], [0, 1, 1, 1, 0]]]).bool()
    mask = mask if training else mask & False
    made = gather(kept, training=training)(torch.randn(1, 2, 5, 4), mask)
    assert made.y.shape == (1, 2, rows, 4)
    assert made.weight.shape == (1, 2, rows)
    total = made.weight.sum().item()
    assert total == pytest.approx(1.0 if training else 0.0)


def test_known_numbers_never_look_at_the_mask(ragged: Tensor) -> None:
    x, mask = torch.randn(1, 3, 5, 2, device="meta"), ragged.to("meta")
    assert gather(Visible(2, 2))(x, mask).y.shape == (1, 3, 3, 2)
    assert gather(Visible(1, 5, "share: 1"))(x, mask).y.shape == (1, 3, 4, 2)
    assert gather(Visible(1, 4))(x, mask).y.shape == (1, 3, 4, 2)
    node = gather(Visible(2, 2))
    compiled: Any = torch.compile(node, backend="aot_eager", fullgraph=True)
    assert compiled(torch.randn(1, 3, 5, 2), ragged).y.shape == (1, 3, 3, 2)


def test_what_does_not_belong_together(ragged: Tensor) -> None:
    uneven = torch.tensor([[[1, 0, 1, 0, 1], [0, 1, 0, 0, 0]]]).bool()
    with pytest.raises(ValueError, match=r"some that leave 2 and some that leave 4 visible"):
        gather(Visible(1, 4))(torch.randn(1, 2, 5, 4), uneven)
    with pytest.raises(ValueError, match=r"marks places of \[1, 3, 5\], but x has \[1, 3, 4\]"):
        gather()(torch.randn(1, 3, 4, 2), ragged)
    review = find("gather_tokens").review
    assert review(None, {"x": ("a",), "mask": ("b", "c")}) == ""
    assert review(None, {"x": ("a", "b"), "mask": ("a", "b")}) == ""
    assert "masks of 1 views do not fit 2 views" in review(None, {"x": ("a", "b"), "mask": ("a",)})


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ([Visible(3, 3), Visible(3, 3)], Visible(3, 3)),
        ([Visible(2, 4)], Visible(2, 4)),
        ([Visible(2, 4), Visible(2, 4)], Visible(2, 4, UNLIKE)),  # each batch may differ
        ([Visible(3, 3), Visible(5, 5)], Visible(3, 5, UNLIKE)),
        ([Visible(3, 3), Visible(1, 6, "share: 1")], Visible(1, 6, "share: 1")),
        ([Visible(3, 3), None], None),
        ([], None),
    ],
)
def test_masks_that_come_in_together(masks: list[Visible | None], expected: Visible | None) -> None:
    assert together(masks) == expected


def graph(mask: dict[str, Any]) -> Any:
    """Tokens at hidden places are compared with themselves, by weight."""
    view: dict[str, Any] = {"use": "augment", "in": "batch.image", "views": 2, "size": 32}
    nodes = {
        "view": view,
        "mask": {"in": "view", "patch": 8, **mask},
        "encoder": {"use": "encoder", "in": "view", "arch": "test_vit", "args": {"patch_size": 8}},
        "gather": {"use": "gather_tokens", "in": {"x": "encoder.tokens", "mask": "mask"}},
        "loss": {
            "use": "smooth_l1",
            "in": {"prediction": "gather", "target": "zero", "weight": "gather.weight"},
        },
        "zero": {"use": "stop_grad", "in": "gather"},
    }
    return sslgraph.load({"sslgraph": 1, "nodes": nodes, "minimize": {"loss": 1.0}})


@pytest.mark.parametrize(
    "mask",
    [
        {"use": "random_mask", "ratio": 0.75},
        {"use": "block_mask", "patches": 9, "min_block": 2, "share": 0.5},
    ],
)
def test_in_a_graph_the_number_is_known_before_a_run(mask: dict[str, Any]) -> None:
    """A ragged mask has room for its most, and a compiled region stays whole."""
    method = sslgraph.compile(graph(mask))
    rows = 12 if mask["use"] == "random_mask" else 9
    image, index = torch.rand(4, 3, 40, 40), torch.arange(4)
    for _ in range(2):
        batch = {"batch.image": image, "batch.index": index}
        made = method.run(batch, ["gather", "gather.weight", "mask"])
        assert made["gather"].shape == (2, 4, rows, 64)
        hidden = made["mask"].sum(-1)
        assert ((made["gather.weight"] > 0).sum(-1) == hidden).all()
        method.compile(backend="aot_eager", fullgraph=True)
    assert method({"image": image, "index": index}).loss.item() == 0


def test_a_node_without_a_graph_counts() -> None:
    mask = torch.zeros(1, 2, 4).bool()
    made: Any = make_node("gather_tokens")(torch.randn(1, 2, 4, 3), mask)
    assert made.y.shape == (1, 2, 1, 3)  # room for one at least
    assert made.weight.sum() == 0
