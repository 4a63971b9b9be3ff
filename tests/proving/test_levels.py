"""Declared levels of losses, seen to be wrong."""

from __future__ import annotations

import math

from sslgraph.loading import load
from tests.proving.graphs import failure, one, passes, with_loss, with_pairs, with_two

NAME = "loss_levels"


def test_a_chance_value_that_is_none_is_found() -> None:
    assert failure(with_loss("broken_levels", none=3.0), NAME) == (
        "loss declares chance at 3, but where all images look alike it is 2"
    )


def test_a_floor_that_is_passed_is_found() -> None:
    text = failure(with_loss("broken_levels", low=2.5), NAME)
    assert text.startswith("loss declares a floor of 2.5, but goes down to 2")


def test_a_floor_that_is_not_reached_is_found() -> None:
    text = failure(with_loss("broken_levels", low=1.0), NAME)
    assert text.startswith("loss declares a floor of 1, but no inputs were found below 2")


def test_sound_levels_pass() -> None:
    assert passes(with_loss("broken_levels", low=2.0, none=2.0), NAME) == (
        "loss chance 2, loss floor 2"
    )
    # 8 images in two views: ln 15
    assert passes(with_loss("nt_xent"), NAME) == f"loss chance {math.log(15):.6g}"
    assert passes(with_pairs("cosine_regression", reduce="sum"), NAME) == "loss floor 0"


def test_losses_that_compare_dimensions_and_values() -> None:
    assert passes(with_pairs("mse"), NAME) == "loss floor 0"
    assert passes(with_two("barlow_twins"), NAME) == "loss chance 4, loss floor 0"


def test_labels_are_among_the_logits_that_are_tried() -> None:
    """A label names one of the logits, so none of these is left out."""
    nodes = {
        "view": {"use": "augment", "in": "batch.image", "views": 1, "size": 32},
        "encoder": {"use": "encoder", "in": "view", "arch": "test_vit"},
        "head": {"use": "linear", "in": "encoder.tokens", "out": 6},
        "ids": {"use": "tokenizer", "in": "view", "count": 6},
        "loss": {"use": "cross_entropy", "in": {"prediction": "head", "target": "ids"}},
    }
    graph = load({"sslgraph": 1, "nodes": nodes, "minimize": {"loss": 1.0}})
    assert passes(graph, NAME) == f"loss chance {math.log(6):.6g}, loss floor 0"


def test_a_loss_without_levels_says_so() -> None:
    result = one(with_loss("broken_levels"), NAME)
    assert result.status == "does_not_apply"
    assert result.found == "broken_levels declares neither a floor nor a chance value"
