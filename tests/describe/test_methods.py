"""The run of a method in words."""

from __future__ import annotations

from typing import Any

import pytest

from sslgraph.describe.methods import recipe
from sslgraph.loading import load


def told(**train: Any) -> dict[str, str]:
    return dict(recipe(load("simclr", set={f"train.{key}": value for key, value in train.items()})))


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        ("run", "all gradients to norm 3"),
        ("tensor", "each tensor to norm 3"),
        ("node", "each node to norm 3"),
        ([["encoder"], ["projector"]], "encoder; projector to norm 3"),
        ([["encoder", "projector"]], "encoder and projector to norm 3"),
    ],
)
def test_clipping(scope: object, text: str) -> None:
    assert told(clip={"norm": 3, "scope": scope})["clipping"] == text


def test_a_run_without_clipping_does_not_speak_of_it() -> None:
    assert "clipping" not in told()


@pytest.mark.parametrize(
    ("name", "text"), [("sgd", "SGD"), ("lars", "LARS"), ("larc", "LARC"), ("adamw", "AdamW")]
)
def test_optimizers(name: str, text: str) -> None:
    assert told(optimizer=name, form=None)["optimizer"] == text


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({}, "each view apart, over all processes"),
        ({"ranks": "own", "per": "none"}, "all views together, in each process"),
        ({"ranks": "shuffled"}, "each view apart, in each process over shuffled samples"),
        ({"ranks": "own", "groups": 8}, "each view apart, in each process in 8 groups"),
    ],
)
def test_batch_norm(rule: dict[str, object], text: str) -> None:
    said = told(batch_norm=rule)["batch norm"]
    assert said == f"{text}, where a node does not say otherwise"
