"""Gradients behind stops and into weights: seen to fail on nodes that break them."""

from __future__ import annotations

import re

from tests import toys
from tests.proving.graphs import failure, one, passes, with_loss, with_node, with_pairs

STOPPED, TRAINED = "stopped_gradients", "trained_gradients"


def test_a_stop_that_leaks_is_found() -> None:
    # the views' difference from themselves has no gradient, so let the stop get another view
    graph = toys.graph(
        {
            **toys.TWO_VIEWS,
            "still": {"use": "broken_stop", "in": ["head.1", "head.0"]},
            "loss": {"use": "toy_pull", "in": {"a": "head", "b": "still"}},
            "other": {"use": "nt_xent", "in": "head"},
        },
        {"loss": 1.0, "other": 1.0},
    )
    text = failure(graph, STOPPED)
    assert re.fullmatch(
        r"still \(broken_stop\) declares that it stops gradients, but one of norm \S+ reaches "
        r"its input x",
        text,
    )
    assert one(graph, STOPPED).place == "<dict>"


def test_a_memory_that_keeps_the_gradient_is_found() -> None:
    text = failure(with_node("broken_hanging"), STOPPED)
    assert re.fullmatch(
        r"the loss of a batch sends a gradient of norm \S+ into views.y of the batch before: what "
        r"odd stores still hangs on it",
        text,
    )


def test_a_weight_that_counts_for_nothing_is_found() -> None:
    text = failure(with_node("broken_dead"), TRAINED)
    assert text == "no gradient in 1 of 6 parameters: odd.shift (zero)"


def test_sound_graphs_pass() -> None:
    assert passes(with_pairs("cosine_regression", reduce="sum"), STOPPED) == "0 in 1 input (still)"
    assert passes(with_pairs("cosine_regression", reduce="sum"), TRAINED).startswith(
        "all 6 parameters"
    )
    memory = toys.graph(
        {
            **toys.TWO_VIEWS,
            "memory": {"use": "toy_memory", "in": "head"},
            "loss": {"use": "toy_far", "in": {"a": "head", "items": "memory"}},
        }
    )
    assert passes(memory, STOPPED) == "0 in 2 stored views (memory)"


def test_it_does_not_apply_without_a_stop() -> None:
    result = one(with_loss("nt_xent"), STOPPED)
    assert result.status == "does_not_apply"
    assert result.found == "no node stops a gradient, keeps a memory or is held untrained"
