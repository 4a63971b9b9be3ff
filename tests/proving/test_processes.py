"""Two processes against one: statistics and memories that do not cross, seen to differ."""

from __future__ import annotations

import re

import pytest

from sslgraph.spec import Graph
from tests import toys
from tests.conftest import OnRanks
from tests.proving.graphs import failure, one, passes, with_copy, with_loss, with_memory, with_node

NAME = "processes"


def normed(**rule: object) -> Graph:
    """Two views through a head with batch norm."""
    head = {"use": "projector", "in": "pixels", "hidden": [6], "out": 4, "batch_norm": rule}
    return toys.graph({**toys.TWO_VIEWS, "head": head})


def test_a_statistic_that_does_not_cross_is_found(on_ranks: OnRanks) -> None:
    text = failure(with_node("broken_own_mean"), NAME, on_ranks)
    assert re.fullmatch(r"loss of step 1 is \S+ on 2 processes and \S+ on one", text)


def test_a_memory_of_the_own_keys_is_found(on_ranks: OnRanks) -> None:
    text = failure(with_memory("broken_own_memory"), NAME, on_ranks)
    assert re.fullmatch(r"loss of step 2 is \S+ on 2 processes and \S+ on one", text)


def test_what_fails_there_is_told(on_ranks: OnRanks) -> None:
    assert failure(with_node("broken_only_alone"), NAME, on_ranks) == (
        "it could not be run; PoolError: in one of 2 processes: RuntimeError: not among others"
    )


@pytest.mark.parametrize(
    "graph", [with_loss("nt_xent"), with_memory("toy_memory"), with_copy("ema")]
)
def test_sound_graphs_pass(on_ranks: OnRanks, graph: Graph) -> None:
    found = passes(graph, NAME, on_ranks)
    assert re.fullmatch(r"2 x 4 images, 2 steps, apart by \S+", found)


def test_a_statistic_that_says_whose_it_is_has_its_own_reference(on_ranks: OnRanks) -> None:
    found = passes(with_node("toy_said_mean"), NAME, on_ranks)
    assert found.endswith("; each with statistics of its own: odd")


@pytest.mark.parametrize("per", ["view", "none"])
@pytest.mark.parametrize(("ranks", "groups"), [("all", 1), ("own", 1), ("own", 2), ("shuffled", 2)])
def test_every_rule_of_batch_norm_passes(
    on_ranks: OnRanks, per: str, ranks: str, groups: int
) -> None:
    graph = normed(per=per, ranks=ranks, groups=groups)
    if ranks == "shuffled" and per == "none":
        assert one(graph, NAME, on_ranks).found == (
            "head deals out all views of all processes together, which no single process does alike"
        )
        return
    assert passes(graph, NAME, on_ranks).endswith("head") == (ranks != "all")
