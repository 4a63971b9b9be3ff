"""Training settings that name nodes or that not every type of node can have."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from sslgraph.errors import Problem
from sslgraph.nodes.base import Node
from sslgraph.plan import examine
from sslgraph.ports import In, Out
from sslgraph.schedules import LearnableNumber
from tests.toys import TWO_VIEWS, graph


class Gain(Node, use="toy_gain"):
    """A factor and nothing else."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    class Config(Node.Config):
        factor: LearnableNumber = 1.0

    factor: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def problems(nodes: dict[str, Any], **train: Any) -> list[Problem]:
    return examine(graph({**TWO_VIEWS, **nodes}, train=train))[1]


def clipping(*lists: list[str], nodes: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    found = problems(nodes or {}, clip={"norm": 1.0, "scope": list(lists)})
    return [(problem.code, problem.title) for problem in found]


@pytest.mark.parametrize("scope", ["run", "tensor", "node", [["head"], ["pixels"]]])
def test_sound_scopes(scope: object) -> None:
    assert problems({}, clip={"norm": 1.0, "scope": scope}) == []


def test_a_name_that_is_no_node() -> None:
    assert clipping(["head", "pixel"]) == [("E330", "no node named 'pixel' to clip")]


@pytest.mark.parametrize("lists", [[["head"], ["pixels", "head"]], [["head", "head"]]])
def test_a_node_in_two_norms(lists: list[list[str]]) -> None:
    assert clipping(*lists) == [("E331", "head is clipped twice")]


def test_nodes_without_gradients_of_their_own() -> None:
    assert clipping(["views", "head", "loss"]) == [
        ("W332", "views has no gradients of its own to clip"),
        ("W332", "loss has no gradients of its own to clip"),
    ]
    untrained = {"head": {**TWO_VIEWS["head"], "train": False}}
    assert clipping(["head"], nodes=untrained) == [
        ("W332", "head has no gradients of its own to clip")
    ]


def test_a_learned_number_has_a_gradient() -> None:
    nodes: dict[str, Any] = {
        "gain": {"use": "toy_gain", "in": "head"},
        "loss": {"use": "nt_xent", "in": "gain"},
    }
    assert clipping(["gain"], nodes=nodes) == [("W332", "gain has no gradients of its own to clip")]
    nodes["gain"]["factor"] = {"learned": 0.1}
    assert clipping(["gain"], nodes=nodes) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("views", "toy_noise draws at random"),
        ("loss", "nt_xent is a loss"),
        ("memory", "toy_memory writes state"),
        ("stop", "stop_grad lets no gradient pass"),
        ("head", ""),
        ("pixels", ""),
    ],
)
def test_what_can_be_computed_again(name: str, reason: str) -> None:
    nodes: dict[str, Any] = {
        **TWO_VIEWS,
        "stop": {"use": "stop_grad", "in": "head"},
        "memory": {"use": "toy_memory", "in": "stop"},
        "far": {"use": "toy_far", "in": {"a": "head", "items": "memory"}},
    }
    nodes[name] = {**nodes[name], "train": {"recompute": True}}
    found = [p for p in problems(nodes) if p.code == "E333"]
    assert [p.notes[0].partition(",")[0].partition(":")[0] for p in found] == [reason] * bool(
        reason
    )
