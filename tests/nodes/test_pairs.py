"""Which views a loss compares: by the crops they came from, in training and in evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import Context, Node
from sslgraph.nodes.losses.cosine_regression import CosineRegression
from sslgraph.nodes.losses.pairs import over_places, pairs_of
from sslgraph.ports import In, Out
from tests.conftest import OnRanks

GLOBALS = ("crops.global.0", "crops.global.1")
CROPS = (*GLOBALS, *(f"crops.local.{i}" for i in range(8)))


def node_of(prediction: tuple[str, ...], target: tuple[str, ...], **settings: Any) -> Node:
    context = Context(views={"prediction": prediction, "target": target})
    return CosineRegression(context=context, **{"reduce": "sum", **settings})


def test_crops_are_compared_not_places() -> None:
    a, b = ("v.0", "v.1"), ("v.1", "v.0")
    assert pairs_of("cross", a, a) == ((0, 1), (1, 0))
    assert pairs_of("cross", a, b) == ((0, 0), (1, 1))
    assert pairs_of("same", a, b) == ((0, 1), (1, 0))
    assert pairs_of("all", a, b) == ((0, 1), (0, 0), (1, 1), (1, 0))


def test_one_view_is_compared_with_other_crops_only() -> None:
    """It does not stand for every view: the crops decide."""
    assert pairs_of("cross", ("v.0", "v.1"), ("v.0",)) == ((1, 0),)
    assert pairs_of("cross", ("v.0",), ("v.1",)) == ((0, 0),)
    assert pairs_of("same", ("v.0",), ("v.1",)) == ()


def test_dino_has_eighteen_pairs() -> None:
    assert len(pairs_of("cross", CROPS, GLOBALS)) == 18
    assert len(pairs_of("cross", GLOBALS, GLOBALS)) == 2
    assert len(pairs_of("cross", CROPS[2:], GLOBALS)) == 16
    assert len(pairs_of("all", CROPS, GLOBALS)) == 20


def test_the_order_of_views_does_not_change_the_order_of_pairs() -> None:
    """Sums of floats depend on their order, so pairs follow the names of the crops."""
    names = tuple(f"v.{i}" for i in range(12))
    mixed = tuple(names[i] for i in torch.randperm(12).tolist())
    told = [(names[i], names[j]) for i, j in pairs_of("cross", names, names)]
    assert [(mixed[i], mixed[j]) for i, j in pairs_of("cross", mixed, mixed)] == told
    assert told[0] == ("v.0", "v.1")
    assert told[-1] == ("v.11", "v.10")  # not v.9: numbers count as numbers


def test_permuting_references_leaves_the_loss_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    p, t = torch.randn(10, 4, 16, generator=generator), torch.randn(2, 4, 16, generator=generator)
    value = node_of(CROPS, GLOBALS)(p, t)
    order = torch.randperm(10, generator=generator).tolist()
    names = tuple(CROPS[i] for i in order)
    found = node_of(names, GLOBALS[::-1])(p[order], t.flip(0))
    torch.testing.assert_close(found, value, rtol=0, atol=1e-7)
    wrong = node_of(CROPS, GLOBALS)(p[order], t.flip(0))
    assert abs(wrong.item() - value.item()) > 1e-3


def test_the_plan_and_the_loss_have_the_same_pairs() -> None:
    node = node_of(("v.0", "v.1"), ("v.1",))
    views = {"prediction": ("v.0", "v.1"), "target": ("v.1",)}
    assert CosineRegression.declaration.pairs(node.config, views) == ((0, 0),)
    p, t = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert node(p, t).item() == pytest.approx(2)  # the second prediction would give 0


def test_without_a_graph_views_are_numbered() -> None:
    p = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert CosineRegression(reduce="sum", pairs="same")(p, p).item() == pytest.approx(0)
    assert CosineRegression(reduce="sum", pairs="cross")(p, p).item() == pytest.approx(4)


def test_evaluation_compares_what_there_is() -> None:
    """There one clean view stands for all crops."""
    node = node_of(CROPS, GLOBALS).eval()
    p, t = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    expected = (2 - 2 * torch.cosine_similarity(p, t, dim=-1)).mean()
    torch.testing.assert_close(node(p, t), expected)
    two = torch.cat([p, t])  # a clean view of each crop group
    torch.testing.assert_close(node(two, t), expected)
    torch.testing.assert_close(CosineRegression(reduce="mean").eval()(p, t), expected)


def test_training_with_other_views_than_the_graph_says_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cosine_regression compares \(10, 2\) views, got \(9, 2"):
        node_of(CROPS, GLOBALS)(torch.ones(9, 1, 4), torch.ones(2, 1, 4))
    with pytest.raises(ValueError, match="leaves nothing to compare: prediction has 0, target"):
        CosineRegression(reduce="sum")(torch.ones(1, 1, 4), torch.ones(1, 1, 4))


def test_no_pair_is_told_with_a_remedy() -> None:
    review = CosineRegression.declaration.review
    config = CosineRegression(reduce="sum").config
    assert review(config, {"prediction": GLOBALS, "target": GLOBALS}) == ""
    one = {"prediction": ("views.0",), "target": ("views.0",)}
    assert review(config, one) == (
        "`pairs: cross` leaves nothing to compare: prediction has views.0, target has views.0; "
        "give one side views of other crops, or compare each view with each by `pairs: all`"
    )
    same = CosineRegression(reduce="sum", pairs="same").config
    assert review(same, {"prediction": CROPS[2:], "target": GLOBALS}) == (
        "`pairs: same` leaves nothing to compare: prediction has crops.local.0, crops.local.1, "
        "crops.local.2, crops.local.3 and 4 more, target has crops.global.0, crops.global.1; "
        "give both sides views of the same crops, or compare different ones by `pairs: cross`"
    )


def test_the_mean_over_places() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()

    def mean(mask: Tensor | None, average: Any) -> float:
        return over_places(values, mask, average, training=True).item()

    assert mean(None, "batch") == mean(None, "image") == 5
    assert mean(mask, "batch") == 3  # (1 + 2 + 6) / 3
    assert mean(mask, "image") == 2.5  # (1.5 + 6 + 0) / 3
    assert mean(mask & False, "batch") == mean(mask & False, "image") == 0


def gathered_tokens(rank: int, x: Tensor) -> Tensor:
    class Toy(Node, use="toy_of_all_ranks"):
        """All that comes in, of every process."""

        x = In("tokens", "V B ... D")
        y = Out("tokens", "V B ... D")
        gathers = {"x": "no_grad"}

        def forward(self, x: Tensor) -> Tensor:
            return x

    gathered: Tensor = Toy()(x[:, rank : rank + 1])
    return gathered


def test_open_axes_behind_the_batch_are_gathered_by_the_batch(on_ranks: OnRanks) -> None:
    x = torch.randn(3, 2, 5, 4)
    for found in on_ranks(gathered_tokens, x):
        assert torch.equal(found, x)
