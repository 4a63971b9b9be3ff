"""Reads before writes, seen in the wrong order."""

from __future__ import annotations

import pytest

from sslgraph.spec import Graph
from tests.proving.graphs import failure, one, passes, with_copy, with_loss, with_memory, with_node

NAME = "reads_before_writes"


def test_a_state_that_is_written_before_it_is_read_is_found() -> None:
    text = failure(with_node("broken_eager"), NAME)
    assert text == "odd.mean was written before every node had read"


def test_a_write_that_changes_what_was_handed_out_is_found() -> None:
    text = failure(with_memory("broken_peeking"), NAME)
    assert text == "what memory.items handed out was changed by the write that followed"


@pytest.mark.parametrize("graph", [with_memory("toy_memory"), with_copy("ema")])
def test_sound_graphs_pass(graph: Graph) -> None:
    assert "gave what earlier forward passes had written" in passes(graph, NAME)


def test_it_does_not_apply_without_a_state() -> None:
    assert one(with_loss("nt_xent"), NAME).found == "no node keeps a state"
