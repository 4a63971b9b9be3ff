"""The order of views and the list of pairs."""

from __future__ import annotations

import re

from tests import toys
from tests.proving.graphs import failure, one, passes, with_loss, with_pairs


def test_a_loss_that_prefers_a_view_is_found() -> None:
    text = failure(with_loss("broken_first_view"), "view_order")
    assert re.fullmatch(
        r"exchanging views.0 and views.1 changes loss from \S+ to \S+, though no wire tells them "
        r"apart",
        text,
    )


def test_a_pair_that_is_not_listed_is_found() -> None:
    assert failure(with_pairs("broken_any_pair"), "view_pairs") == (
        "loss compares prediction of views.0 with target of views.0, which is not in its list of "
        "pairs"
    )


def test_a_pair_that_is_listed_and_not_compared_is_found() -> None:
    assert failure(with_pairs("broken_no_pair", pairs="same"), "view_pairs") == (
        "loss lists prediction of views.0 with target of views.0 as a pair, but does not compare "
        "them"
    )


def test_sound_graphs_pass() -> None:
    graph = with_pairs("cosine_regression", reduce="sum")
    assert passes(graph, "view_pairs") == "pairs that interact: loss 2 of 4"
    found = passes(graph, "view_order")
    assert re.fullmatch(r"1 exchange of neighbouring views, apart by \S+ at most", found)


def test_views_that_go_different_ways_are_not_exchanged() -> None:
    nodes = {**toys.TWO_VIEWS, "loss": {"use": "toy_pull", "in": {"a": "head.0", "b": "head.1"}}}
    result = one(toys.graph(nodes), "view_order")
    assert result.status == "does_not_apply"
    assert result.found == "wires tell the views apart: views.0 and views.1 go different ways"
