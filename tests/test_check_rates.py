"""A rate that falls from block to block is of use where blocks train by it, and said to be none."""

from __future__ import annotations

from typing import Any

import pytest

from sslgraph.checking import check
from sslgraph.loading import load

RUN, OWN = {"peak": 1.0e-3, "layer_decay": 0.75}, {"peak": 1.0e-4, "layer_decay": 0.5}


def warned(encoder: dict[str, Any], run: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    """The code of each problem, and the line that it shows."""
    known = {"use": "encoder", "in": "views", "arch": "test_resnet", **encoder}
    nodes: dict[str, Any] = {
        "views": {"use": "augment", "in": "batch.image", "views": 2, "size": 32, "ops": []},
        "encoder": known,
        "projector": {"use": "projector", "in": "encoder.embedding", "hidden": [], "out": 4},
        "loss": {"use": "nt_xent", "in": "projector"},
        **more,
    }
    graph = {"sslgraph": 1, "nodes": nodes, "minimize": {"loss": 1.0}, "train": {"lr": run}}
    return [(problem.code, problem.span.text.partition(":")[0]) for problem in check(load(graph))]


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_blocks_that_train_by_a_rate_decay_with_it(arch: str) -> None:
    assert warned({"arch": arch}, RUN) == []
    assert warned({"arch": arch, "train": {"lr": OWN}}, {"peak": 1.0e-3}) == []
    assert warned({"arch": arch, "train": {"lr": {"scale": 0.1}}}, RUN) == []


def test_blocks_that_do_not_train_or_have_their_own_rate_do_not() -> None:
    run = ("W334", "train.lr.layer_decay")
    assert warned({"train": False}, RUN) == [run]
    assert warned({"train": {"lr": {"peak": 1.0e-4}}}, RUN) == [run]
    assert warned({"train": {"lr": OWN}}, RUN) == [run]


def test_a_slow_copy_of_an_encoder_does_not_train() -> None:
    slow = {"use": "ema", "of": "encoder", "in": "views", "momentum": 0.9}
    more = {
        "slow": slow,
        "head": {"use": "projector", "in": "slow.embedding", "hidden": [], "out": 4},
        "loss": {"use": "nt_xent", "in": ["projector", "head"]},
    }
    own = {"train": {"lr": {"peak": 1.0e-4}}}
    assert warned(own, RUN, **more) == [("W334", "train.lr.layer_decay")]


def test_a_head_has_no_blocks() -> None:
    head = {"use": "projector", "in": "encoder.embedding", "hidden": [], "out": 4}
    found = warned({}, RUN, projector={**head, "train": {"lr": OWN}})
    assert found == [("W334", "nodes.projector.train.lr.layer_decay")]


def test_a_factor_of_one_asks_for_nothing() -> None:
    assert warned({"train": False}, {"peak": 1.0e-3, "layer_decay": 1.0}) == []
