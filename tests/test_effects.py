"""Effects: losses without weight, copies that nothing moves, training settings where none train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslgraph.checking import check
from sslgraph.errors import Problem
from sslgraph.method import compile_graph
from sslgraph.nodes.base import Node
from sslgraph.ports import In, Out
from tests.toys import TWO_VIEWS, graph


class Tag(Node, use="toy_tag"):
    """An index out of an embedding, through which no gradient passes, with weights of its own."""

    x = In("embedding", "... D")
    y = Out("index", "...")

    def build(self, D: int) -> None:
        self.layer = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x).argmax(-1)
        return y


class Pick(Node, use="toy_pick"):
    """Rows of a table by an index."""

    x = In("index", "...")
    y = Out("embedding", "... 4")

    def build(self) -> None:
        self.table = nn.Embedding(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.table(x)
        return y


def problems(changes: dict[str, Any], minimize: Any = None, **rest: Any) -> list[Problem]:
    return check(graph({**TWO_VIEWS, **changes}, minimize, **rest))


def one(changes: dict[str, Any], minimize: Any = None, **rest: Any) -> Problem:
    (problem,) = problems(changes, minimize, **rest)
    return problem


SLOW = {"use": "ema", "of": "pixels", "in": "views"}
PULL = {"use": "toy_pull", "in": {"a": "head", "b": "slow"}}


def test_a_copy_of_what_is_never_trained() -> None:
    fixed = {**TWO_VIEWS["pixels"], "train": False}
    found = one({"pixels": fixed, "slow": SLOW, "loss": PULL})
    assert (found.code, found.severity) == ("E305", "error")
    assert found.title == "slow follows pixels, which is never trained"
    assert found.notes == ("pixels has `train: false`",)
    assert problems({"slow": SLOW, "loss": PULL}) == []


def test_a_copy_of_what_no_gradient_reaches() -> None:
    other = {"use": "toy_pixels", "in": "views"}
    slow = {"use": "ema", "of": ["other", "more"], "in": "views"}
    more = {"use": "toy_scale", "in": "other"}
    found = one({"other": other, "more": more, "slow": slow, "loss": PULL})
    assert found.title == "slow follows other and more, which are never trained"
    assert found.notes == tuple(
        f"{name} gets no gradient: no loss that is minimised comes after it"
        for name in ("other", "more")
    )
    # one member that moves is enough for the copy; the other one is reported by itself
    half = {"use": "ema", "of": ["pixels", "more"], "in": "views"}
    found = one({"more": {"use": "toy_scale", "in": "pixels"}, "slow": half, "loss": PULL})
    assert (found.code, found.title) == ("E302", "no gradient reaches more")
    assert found.notes == (
        "no loss that is minimised comes after it",
        "slow (ema) follows more but sends it no gradient",
    )


def test_a_copy_of_a_copy_moves_with_the_original() -> None:
    slower = {"use": "ema", "of": "slow.pixels", "in": "views"}
    pull = {"use": "toy_pull", "in": {"a": "head", "b": "slower"}}
    assert problems({"slow": SLOW, "slower": slower, "loss": pull}) == []


def test_a_part_of_a_copy_counts_alone() -> None:
    """Of a copied chain whose encoder is fixed only the head moves."""
    nodes = {
        "pixels": {**TWO_VIEWS["pixels"], "train": False},
        "slow": {"use": "ema", "of": ["pixels", "head"], "in": "views"},
        "still": {"use": "ema", "of": "slow.pixels", "in": "views"},
        "moving": {"use": "ema", "of": "slow.head", "in": "still"},
        "loss": {"use": "toy_pull", "in": {"a": "head", "b": "moving"}},
    }
    found = one(nodes)
    assert found.title == "still follows slow.pixels, which is never trained"


def test_a_copy_of_what_is_trained_at_a_second_place_only() -> None:
    """The original's own output is used by nobody; its gradient comes through `shared`."""
    nodes = {
        "twin": {"use": "shared", "of": "pixels", "in": "views"},
        "head": {"use": "toy_scale", "in": "twin"},
        "slow": SLOW,
        "loss": PULL,
    }
    assert problems(nodes) == []


def test_a_copy_of_what_has_no_weights() -> None:
    slow = {"use": "ema", "of": "stop", "in": "pixels"}
    found = one({"stop": {"use": "stop_grad", "in": "head"}, "slow": slow, "loss": PULL})
    assert (found.code, found.span.text) == ("E307", "nodes.slow.of: 'stop'")
    assert found.title == "slow (ema) has nothing to follow: stop has no weights"
    chain = {"use": "ema", "of": ["head", "stop"], "in": "pixels"}
    assert problems({"stop": {"use": "stop_grad", "in": "head"}, "slow": chain, "loss": PULL}) == []


@pytest.mark.parametrize("train", [True, {"lr": {"scale": 0.1}}, {"weight_decay": 0.1}])
def test_a_gradient_into_a_teacher(train: Any) -> None:
    found = one({"slow": {**SLOW, "train": train}, "loss": PULL})
    assert found.code == "E306"
    assert found.title == "slow (ema) is never trained: it follows pixels"
    assert found.span.text.startswith("nodes.slow.train")
    assert found.help == "remove 'train', or set it at pixels, whose gradients train both"
    assert problems({"slow": {**SLOW, "train": False}, "loss": PULL}) == []


def test_training_settings_where_weights_are_lent_or_missing() -> None:
    twin = {"use": "shared", "of": "pixels", "in": "views"}
    pull = {"use": "toy_pull", "in": {"a": "head", "b": "twin"}}
    found = one({"twin": {**twin, "train": {"lr": {"scale": 0}}}, "loss": pull})
    assert found.title == "twin (shared) has no weights of its own: it uses those of pixels"
    assert found.help == "remove 'train', or set it at pixels"
    found = one({"twin": {**twin, "train": False}, "loss": pull})
    assert found.help == "remove 'train'; to keep gradients from pixels here, use a stop_grad"
    found = one({"views": {**TWO_VIEWS["views"], "train": {"weight_decay": 0}}})
    assert (found.title, found.help) == (
        "views (toy_noise) has no weights to train",
        "remove 'train'",
    )


def test_what_stops_the_gradient_is_named() -> None:
    nodes = {
        "stopped": {"use": "stop_grad", "in": "head"},
        "kept": {"use": "toy_memory", "in": "head"},
        "idle": {"use": "toy_pull", "in": "head"},
        "last": {"use": "toy_scale", "in": "stopped"},
        "loss": {"use": "toy_far", "in": {"a": "last", "items": "kept"}},
    }
    found = problems(nodes, outputs={"idle": "idle"})
    assert [(p.code, p.title) for p in found] == [
        ("E302", "no gradient reaches pixels"),
        ("E302", "no gradient reaches head"),
    ]
    for problem in found:
        assert problem.notes == (
            "stopped (stop_grad) lets no gradient through",
            "kept (toy_memory) stores what comes in, without its gradient",
            "idle (toy_pull) is not minimised",
        )


def test_a_kind_without_gradient_stops_it_too() -> None:
    nodes = {
        "tag": {"use": "toy_tag", "in": "head"},
        "pick": {"use": "toy_pick", "in": "tag"},
        "loss": {"use": "toy_pull", "in": "pick"},
    }
    found = problems(nodes)
    assert [p.title for p in found] == [
        f"no gradient reaches {n}" for n in ("pixels", "head", "tag")
    ]
    assert found[0].notes == ("pick (toy_pick) gets index, which carries no gradient",)


def test_what_stops_every_gradient_before_a_loss() -> None:
    nodes = {
        "stopped": {"use": "stop_grad", "in": "head"},
        "loss": {"use": "toy_pull", "in": {"a": "stopped"}},
    }
    found = one(nodes)
    assert (found.code, found.title) == ("E304", "nothing that is trained reaches loss")
    assert found.notes == ("stopped (stop_grad) lets no gradient through",)


def test_weights_of_zero() -> None:
    extra = {"extra": {"use": "toy_pull", "in": "head"}}
    found = one(extra, {"loss": 1, "extra": 0})
    assert (found.code, found.severity) == ("W308", "warning")
    assert found.title == "extra has weight 0, so it is computed but trains nothing"
    assert problems(extra, {"loss": 1, "extra": {"linear": [0, 1]}}) == []
    found = one(extra, {"loss": 0, "extra": 0.0})
    assert (found.code, found.title) == ("E301", "nothing to minimise: every weight is 0")


def test_a_negative_weight() -> None:
    found = one({}, {"loss": -1})
    assert (found.code, found.severity) == ("W309", "warning")
    assert found.title == "loss is maximised: its weight is negative"


def test_a_chain_ends_where_nobody_needs_the_rest() -> None:
    """The copy's head is left out, and so is the head, which nothing trains."""
    changes: dict[str, Any] = {
        "slow": {"use": "ema", "of": ["pixels", "head"], "in": "views"},
        "loss": {"use": "toy_pull", "in": {"a": "pixels", "b": "slow.pixels"}},
    }
    found = [p for p in problems(changes) if p.code == "W303"]
    assert [p.title for p in found] == [
        "head reaches neither a loss nor an output, so it is left out",
        "what head would make in slow reaches neither a loss nor an output, so slow ends after "
        "pixels",
    ]
    made = compiled(changes)
    assert list(made.nodes["slow"].members) == ["pixels"]
    assert "head" not in {step.name for step in made.plan.steps}
    step = made({"image": torch.rand(4, 3, 8, 8)})
    step.loss.backward()


def test_a_copy_that_nobody_needs_is_left_out_without_an_error() -> None:
    fixed = {**TWO_VIEWS["pixels"], "train": False}
    found = problems({"other": fixed, "slow": {**SLOW, "of": "other"}})
    assert [p.code for p in found] == ["W303", "W303"]


def compiled(changes: dict[str, Any]) -> Any:
    return compile_graph(graph({**TWO_VIEWS, **changes}), seed=0)
