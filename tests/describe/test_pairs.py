"""The printed pair list of a loss: which crops are compared, short enough for eighteen pairs."""

from __future__ import annotations

from typing import Any

import pytest

from sslgraph.describe.pairs import LossPairs, loss_pairs, ranges
from sslgraph.plan import make_plan
from tests.toys import graph


def pairs_of(prediction: Any, target: Any, **settings: Any) -> LossPairs:
    nodes = {
        "large": {"use": "toy_noise", "in": "batch.image"},
        "small": {"use": "toy_noise", "in": "batch.image", "views": 3},
        "a": {"use": "toy_pixels", "in": "large"},
        "b": {"use": "shared", "of": "a", "in": "small"},
        "slow": {"use": "ema", "of": "a", "in": "large"},
        "loss": {
            "use": "cosine_regression",
            "in": {"prediction": prediction, "target": target},
            "reduce": "sum",
            **settings,
        },
    }
    (found,) = loss_pairs(make_plan(graph(nodes)))
    return found


def test_large_and_small_crops_against_large_ones() -> None:
    """As in DINO: 2 x 2 - 2 pairs of large crops, and 3 x 2 with a small one."""
    found = pairs_of(["a", "b"], "slow")
    assert (found.loss, found.inputs, found.amount) == (
        "loss",
        ("prediction", "target"),
        "8 pairs (cross)",
    )
    assert found.groups == (
        ("large.0", "large.1"),
        ("large.1", "large.0"),
        ("small.0:3", "large.0:2"),
    )


def test_the_order_of_a_list_changes_nothing() -> None:
    assert pairs_of(["b", "a"], "slow") == pairs_of(["a", "b"], "slow")


@pytest.mark.parametrize(
    ("prediction", "target", "rule", "amount", "groups"),
    [
        ("b", "b", "cross", "6 pairs (cross)", (("small.0:3", "the others of small.0:3"),)),
        ("b", "b", "same", "3 pairs (same)", (("small.0:3", "the same view"),)),
        ("b", "slow", "all", "6 pairs (all)", (("small.0:3", "large.0:2"),)),
        ("b.1", "slow.0", "all", "1 pair (all)", (("small.1", "large.0"),)),
        ("a.1", "slow.1", "same", "1 pair (same)", (("large.1", "large.1"),)),
        (["b.0", "b.2"], "slow.1", "all", "2 pairs (all)", (("small.0, small.2", "large.1"),)),
    ],
)
def test_lists_of_pairs(
    prediction: Any, target: str, rule: str, amount: str, groups: tuple[tuple[str, str], ...]
) -> None:
    found = pairs_of(prediction, target, pairs=rule)
    assert (found.amount, found.groups) == (amount, groups)


def test_losses_without_pairs_are_not_listed() -> None:
    nodes = {
        "views": {"use": "toy_noise", "in": "batch.image"},
        "a": {"use": "toy_pixels", "in": "views"},
        "loss": {"use": "nt_xent", "in": "a"},
    }
    assert loss_pairs(make_plan(graph(nodes))) == []


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["batch"], "batch"),
        (["crops.9", "crops.10", "crops.11"], "crops.9:12"),
        (["crops.0", "crops.2", "crops.3", "other.4"], "crops.0, crops.2:4, other.4"),
        (["a.1", "a.0"], "a.1, a.0"),
    ],
)
def test_names_of_views_in_a_row(names: list[str], text: str) -> None:
    assert ranges(names) == text
