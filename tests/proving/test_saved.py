"""What a state dict holds, and the two readers of a plan."""

from __future__ import annotations

import re

from tests.proving.graphs import failure, passes, with_copy, with_memory, with_node


def test_a_state_outside_the_state_dict_is_found() -> None:
    text = failure(with_node("broken_forgetful"), "state_dict")
    assert re.fullmatch(
        r"loss of the next step is off by \S+ after load_state_dict: something that a run changes "
        r"is not in the state dict",
        text,
    )


def test_a_node_that_differs_between_calls_is_found() -> None:
    text = failure(with_node("broken_moody"), "walked")
    assert re.fullmatch(r"loss is \S+ node by node and \S+ as emitted", text)


def test_sound_graphs_pass() -> None:
    for graph in (with_memory("toy_memory"), with_copy("ema")):
        found = passes(graph, "state_dict")
        assert found.endswith("loss, gradients and state of the next step equal to the bit")
        assert passes(graph, "walked").endswith("equal to the bit")
