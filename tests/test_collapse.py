"""The collapse review: which losses need something against constant features, and what counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslgraph.checking import check
from sslgraph.errors import Problem
from sslgraph.loading import load, shipped_methods
from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss
from sslgraph.ports import In, Out
from tests.toys import graph


class Draw(Loss, use="toy_draw"):
    """Draw two embeddings together."""

    prediction = In("embedding", "V B D")
    target = In("embedding", "V B D")
    mask = In("mask", "V B N", optional=True)
    attracts = ("prediction", "target")

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        return (prediction - target).square().mean()


class Contrast(Draw, use="toy_contrast"):
    """Draw two embeddings together and others apart."""

    prevents = "negatives"


class Spread(Loss, use="toy_spread"):
    """Variance of an embedding."""

    x = In("embedding", "V B D")
    prevents = "variance"

    def forward(self, x: Tensor) -> Tensor:
        return -x.var()


class Same(Node):
    """Nothing but a declaration."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def forward(self, x: Tensor) -> Tensor:
        return x


class Whiten(Same, use="toy_whiten"):
    prevents = "whitening"


class Assign(Same, use="toy_assign"):
    prevents = "balance"


class Middle(Same, use="toy_middle"):
    prevents = "centering"


class Sharp(Same, use="toy_sharp"):
    prevents = "sharpening"


class Guess(Same, use="toy_guess"):
    """A predictor."""

    prevents = "asymmetry"

    def build(self, D: int) -> None:
        self.layer = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class Cells(Node, use="toy_cells"):
    """Means of the pixels: no weights, so no training moves them."""

    image = In("image", "B C H W")
    y = Out("embedding", "B C")

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((-1, -2))


class Hide(Node, use="toy_hide"):
    """A mask of nothing."""

    image = In("image", "B C H W")
    y = Out("mask", "B N")

    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros(image.shape[0], 4, dtype=torch.bool, device=image.device)


BASE: dict[str, Any] = {
    "views": {"use": "toy_noise", "in": "batch.image"},
    "encoder": {"use": "toy_pixels", "in": "views", "out": 3},
    "guess": {"use": "toy_guess", "in": "encoder"},
    "slow": {"use": "ema", "of": "encoder", "in": "views"},
    "cells": {"use": "toy_cells", "in": "views"},
}


def found(
    prediction: str | list[str],
    target: str | list[str],
    more: dict[str, Any] | None = None,
    *,
    use: str = "toy_draw",
    minimize: dict[str, Any] | None = None,
) -> list[Problem]:
    """The warnings of the collapse review for a loss between these two."""
    loss = {"use": use, "in": {"prediction": prediction, "target": target}}
    weights = {"loss": 1.0, **(minimize or {})}
    problems = check(graph({**BASE, **(more or {}), "loss": loss}, weights), sizes=False)
    assert not [p for p in problems if p.severity == "error"], problems
    return [problem for problem in problems if problem.code.startswith("W5")]


def of(use: str, source: str, **settings: Any) -> dict[str, Any]:
    return {"use": use, "in": source, **settings}


@pytest.mark.parametrize(
    ("prediction", "target", "more"),
    [
        ("guess", "slow", {}),  # BYOL
        ("guess", "stopped", {"stopped": of("stop_grad", "encoder")}),  # SimSiam
        ("encoder", "target", {"c": of("toy_middle", "slow"), "target": of("toy_sharp", "c")}),
        ("encoder", "target", {"target": of("toy_assign", "encoder")}),  # SwAV
        ("white", "white", {"white": of("toy_whiten", "encoder")}),  # W-MSE
        ("encoder", "cells", {}),  # a target of pixels
        (
            "encoder",
            "known",
            {"known": {"use": "toy_pixels", "in": "views", "out": 3, "train": False}},
        ),
    ],
)
def test_what_is_known_to_work(prediction: str, target: str, more: dict[str, Any]) -> None:
    assert found(prediction, target, more) == []


def test_what_keeps_images_apart_in_a_loss() -> None:
    assert found("encoder", "slow", use="toy_contrast") == []
    spread = of("toy_spread", "encoder")
    more = {"spread": spread}
    assert found("encoder", "encoder", more, minimize={"spread": 1.0}) == []
    assert found("encoder", "encoder", more, minimize={"spread": {"linear": [0.0, 1.0]}}) == []
    # not minimised, of no weight, or of other nodes
    assert len(found("encoder", "encoder", more)) == 1
    assert len(found("encoder", "encoder", more, minimize={"spread": 0})) == 1
    other = {"other": of("toy_pixels", "views", out=3), "spread": of("toy_spread", "other")}
    assert len(found("encoder", "encoder", other, minimize={"spread": 1.0})) == 1


def test_a_second_loss_against_something_fixed_suffices() -> None:
    """As in a tokenizer, whose commitment term stands beside a reconstruction."""
    rebuild = {"use": "toy_draw", "in": {"prediction": "encoder", "target": "cells"}}
    assert found("encoder", "slow", {"rebuild": rebuild}, minimize={"rebuild": 1.0}) == []
    masked = {
        "hide": of("toy_hide", "views"),
        "rebuild": {
            "use": "toy_draw",
            "in": {"prediction": "encoder", "target": "slow", "mask": "hide"},
        },
    }
    assert len(found("encoder", "slow", masked, minimize={"rebuild": 1.0})) == 2


@pytest.mark.parametrize(
    ("prediction", "target", "more", "title"),
    [
        ("encoder", "encoder", {}, "its target gets a gradient too"),
        ("guess", "encoder", {}, "its target gets a gradient too"),
        ("encoder", "slow", {}, "no predictor before its prediction"),
        ("guess", "after", {"after": of("stop_grad", "guess")}, "a predictor is on both sides"),
        (
            "guess",
            "copy",
            {"copy": {"use": "ema", "of": ["encoder", "guess"], "in": "views"}},
            "a predictor is on both sides",
        ),
        (
            "encoder",
            "target",
            {"target": of("toy_sharp", "slow")},
            "the target side has sharpening but no centering",
        ),
        (
            "encoder",
            "target",
            {"target": of("toy_middle", "slow")},
            "the target side has centering but no sharpening",
        ),
        (
            "encoder",
            "target",
            {
                "stopped": of("stop_grad", "encoder"),
                "c": of("toy_middle", "stopped"),
                "target": of("toy_sharp", "c"),
            },
            "its target is centred and sharpened but no slow copy",
        ),
        # the queue's rows depend on trained weights, though no wire is read
        (
            "encoder",
            "memory",
            {"memory": {"use": "toy_memory", "in": "slow", "width": 3}},
            "no predictor before its prediction",
        ),
        # the same weights at a second place, which stop nothing
        (
            "guess",
            "twin",
            {"twin": {"use": "shared", "of": "encoder", "in": "views"}},
            "its target gets a gradient too",
        ),
        # an ema of an ema moves too, and only the trained half of a list counts
        (
            "encoder",
            "slower",
            {"slower": {"use": "ema", "of": "slow.encoder", "in": "views"}},
            "no predictor before its prediction",
        ),
        ("encoder", ["cells", "slow"], {}, "no predictor before its prediction"),
    ],
)
def test_what_is_missing_is_named(
    prediction: str, target: str | list[str], more: dict[str, Any], title: str
) -> None:
    (warning,) = found(prediction, target, more)
    assert (warning.code, warning.severity) == ("W501", "warning")
    assert warning.title == f"loss may collapse: {title}"
    assert warning.span.text.startswith("nodes.loss")
    assert "kNN stays at chance" in warning.notes[-1]
    assert "trained to make prediction and target equal" in warning.notes[-2]
    assert warning.help


def test_a_gradient_into_the_target_alone() -> None:
    (swapped,) = found("slow", "guess")
    assert (swapped.code, swapped.severity) == ("W502", "warning")
    assert swapped.title == "loss trains through target alone, as if its inputs were swapped"
    assert swapped.got == "a gradient into target, which trains encoder and guess"
    assert swapped.notes == ("slow (ema) lets no gradient through",)
    # the review goes on with the sides as they train
    both = {problem.code: problem.title for problem in found("slow", "encoder")}
    assert both["W501"] == "loss may collapse: no predictor before its target"
    assert "W502" in both


def test_anchors_of_a_loss_with_negatives_may_learn_nothing() -> None:
    """As neighbours in NNCLR; a slow copy in their place is MoCo with its sides swapped."""
    stopped = {"stopped": of("stop_grad", "encoder")}
    assert not found("stopped", "guess", stopped, use="toy_contrast")
    (swapped,) = found("slow", "guess", use="toy_contrast")
    assert swapped.code == "W502"


def test_a_broken_graph_gets_no_review() -> None:
    loss = {"use": "toy_draw", "in": {"prediction": "encoder", "target": "encoder"}}
    nodes = {**BASE, "loss": loss, "odd": {"use": "toy_scale", "in": "nothing"}}
    assert [p.code for p in check(graph(nodes), sizes=False)] == ["E201"]


@pytest.mark.parametrize("name", shipped_methods())
def test_no_shipped_method_is_suspected(name: str) -> None:
    presets = load(name).presets
    for preset in (None, *presets):
        problems = check(load(name, preset=preset), sizes=False)
        assert [p for p in problems if p.code.startswith("W5")] == []


@pytest.mark.parametrize(
    ("name", "change", "title"),
    [
        (
            "byol",
            {"nodes.loss.in": {"prediction": "projector", "target": "target"}},
            "no predictor before its prediction",
        ),
        (
            "byol",
            {"nodes.loss.in": {"prediction": "predictor", "target": "projector"}},
            "its target gets a gradient too",
        ),
        (
            "dino",
            {"nodes.target.in": "teacher"},
            "the target side has sharpening but no centering",
        ),
        (
            "dino",
            {
                "nodes.teacher": {"use": "stop_grad", "in": "prototypes.0:2"},
                "outputs.embedding": "encoder.embedding",
                "outputs.tokens": "encoder.tokens",
            },
            "its target is centred and sharpened but no slow copy",
        ),
        (
            "simsiam",
            {"nodes.loss.in": {"prediction": "predictor", "target": "projector"}},
            "its target gets a gradient too",
        ),
        ("barlow_twins", {"nodes.loss.weight": 0}, "nothing keeps images or dimensions apart"),
        ("vicreg", {"nodes.loss.variance": 0}, "nothing keeps images or dimensions apart"),
        (
            "swav",
            {"nodes.codes": {"use": "sharpen", "in": "prototypes.0:2", "temperature": 0.05}},
            "its target gets a gradient too",
        ),
    ],
)
def test_a_method_that_lost_what_keeps_it_from_collapse(
    name: str, change: dict[str, Any], title: str
) -> None:
    graph = load(name, set=change)
    found = [p for p in check(graph, sizes=False) if p.code != "W303"]  # what is left unused
    assert [p.title for p in found] == [f"loss may collapse: {title}"]


def test_types_say_themselves_what_they_do_against_collapse() -> None:
    """A user's type counts like a shipped one: nothing is known by name."""
    (warning,) = found("encoder", "slow")
    assert "the side of target gets no gradient" in warning.notes[0]

    class Mine(Same, use="toy_other_predictor"):
        prevents = "asymmetry"

    assert found("mine", "slow", {"mine": of("toy_other_predictor", "encoder")}) == []
    with pytest.raises(TypeError, match="prevents = 'assymetry': no such word, use one of asymm"):

        class Misspelt(Same, use="toy_misspelt"):
            prevents = "assymetry"


class Twins(Loss, use="toy_twins"):
    """Draw the views of one input together, or two inputs; a term of its own keeps images apart."""

    x = In("embedding", "V B D")
    y = In("embedding", "V B D", optional=True)
    attracts = ("x", "y")
    prevents = "variance"

    class Config(Node.Config):
        spread: float = 1.0

    @classmethod
    def guards(cls, config: Any) -> str:
        return cls.prevents if config.spread else ""

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        spread: float = self.config.spread
        return (x[0] - x[-1]).square().mean() - spread * x.var()


def test_a_loss_over_the_views_of_one_input_is_reviewed_with_its_settings() -> None:
    nodes: dict[str, Any] = {
        "views": {"use": "toy_noise", "in": "batch.image"},
        "pixels": {"use": "toy_pixels", "in": "views"},
        "head": {"use": "toy_scale", "in": "pixels"},
        "loss": {"use": "toy_twins", "in": "head"},
    }
    assert check(graph(nodes)) == []
    nodes["loss"] = {**nodes["loss"], "spread": 0.0}
    (found,) = check(graph(nodes))
    assert found.code == "W501"
    assert found.title == "loss may collapse: nothing keeps images or dimensions apart"
    assert "make the views of x equal" in found.notes[0]


@pytest.mark.parametrize(("spread", "codes"), [(1.0, []), (0.0, ["W502"])])
def test_a_gradient_into_the_second_side_alone_is_judged_with_the_settings(
    spread: float, codes: list[str]
) -> None:
    nodes: dict[str, Any] = {
        "views": {"use": "toy_noise", "in": "batch.image"},
        "pixels": {"use": "toy_pixels", "in": "views"},
        "still": {"use": "stop_grad", "in": "pixels"},
        "head": {"use": "toy_scale", "in": "pixels"},
        "loss": {"use": "toy_twins", "in": {"x": "still", "y": "head"}, "spread": spread},
    }
    found = [problem.code for problem in check(graph(nodes))]
    assert [code for code in found if code == "W502"] == codes
