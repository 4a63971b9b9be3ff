"""Evaluation and draws, seen to depend on what they must not."""

from __future__ import annotations

import re

from tests.proving.graphs import failure, one, passes, with_loss, with_node


def test_an_evaluation_that_writes_is_found() -> None:
    assert failure(with_node("broken_counting"), "evaluation") == "evaluation wrote odd.calls"


def test_an_evaluation_that_differs_the_second_time_is_found() -> None:
    text = failure(with_node("broken_unsteady"), "evaluation")
    assert re.fullmatch(r"output embedding differs by \S+ the second time", text)


def test_a_node_that_draws_from_a_global_generator_is_found() -> None:
    text = failure(with_node("broken_dice"), "randomness")
    assert text == (
        "odd drew from a global generator, with dropout and stochastic depth off: a sample's draws "
        "have to follow from its position"
    )


def test_sound_graphs_pass() -> None:
    graph = with_node("toy_scale")
    assert re.fullmatch(
        r"embedding equal twice, \d+ tensors as before", passes(graph, "evaluation")
    )
    assert passes(graph, "randomness").endswith("for two states of the global generator")


def test_without_outputs_evaluation_does_not_apply() -> None:
    result = one(with_loss("nt_xent"), "evaluation")
    assert (result.status, result.found) == ("does_not_apply", "the graph has no outputs")
