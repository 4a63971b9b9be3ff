"""The `train:` block: what it takes, what it refuses, and its short forms."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from sslgraph.schedules import Time
from sslgraph.train_spec import (
    BatchNormSpec,
    Clip,
    Drops,
    Factors,
    Group,
    LearningRate,
    NodeTrain,
    Scale,
    TrainSpec,
)


def test_learning_rate_rules() -> None:
    # 0.3 x 4096 / 256 and 0.075 x sqrt(4096): both are 4.8 (SimCLR, appendix B.1)
    assert LearningRate.model_validate({"base": 0.3}).scaled(4096) == pytest.approx(4.8)
    rule = LearningRate.model_validate({"base": 0.075, "per": "sqrt 1"})
    assert rule.scaled(4096) == pytest.approx(4.8)
    assert LearningRate.model_validate(0.6).scaled(4096) == 0.6
    rule = LearningRate.model_validate({"base": 0.002, "per": "sqrt 1024"})
    assert rule.scaled(4096) == pytest.approx(0.004)


@pytest.mark.parametrize(
    "lr",
    [{}, {"base": 1, "peak": 1}, {"peak": 1, "per": 256}, {"base": 1, "per": "sqrt"}, -1, True,
     {"base": 1, "per": 0}, {"peak": 1, "shape": "step"}, "fast"],
)  # fmt: skip
def test_bad_learning_rates(lr: object) -> None:
    with pytest.raises(ValidationError):
        LearningRate.model_validate(lr)


def test_factors_are_of_the_kinds_that_no_decay_has() -> None:
    words = [field.alias or name for name, field in Factors.model_fields.items()]
    assert sorted(words) == sorted(get_args(Group))
    factors = Factors.model_validate({"1d": 0.5, "bias": 0.1, "patch_embed": 0.2})
    assert factors.of(set()) == factors.of({"norm"}) == 1
    assert factors.of({"1d", "bias", "norm"}) == pytest.approx(0.05)
    assert factors.of({"patch_embed"}) == 0.2


def test_a_node_may_have_a_rate_with_factors_of_its_own() -> None:
    own = NodeTrain.model_validate({"lr": {"peak": 1, "scale": {"bias": 0.1}}}).lr
    assert own == LearningRate(peak=1.0, scale=Factors(bias=0.1))


def test_drops_are_a_shape() -> None:
    rate = LearningRate.model_validate(
        {"peak": 1, "shape": {"times": 0.1, "at": ["120 epochs", "80%"]}}
    )
    assert rate.shape == Drops(times=0.1, at=(Time(120, "epochs"), Time(80, "percent")))
    assert hash(rate)


@pytest.mark.parametrize(
    ("lr", "text"),
    [
        ({"scale": {"biases": 1}}, "Extra inputs"),
        ({"scale": {"bias": -1}}, "greater than or equal to 0"),
        ({"layer_decay": 0}, "greater than 0"),
        ({"layer_decay": 1.01}, "less than or equal to 1"),
        ({"over": 125}, "no unit"),
        ({"over": "0%"}, "takes some time"),
        ({"over": "125%", "shape": "constant"}, "no effect without a cosine"),
        ({"shape": {"times": 0.1}}, "at"),
        ({"shape": {"times": 0, "at": ["1 epoch"]}}, "greater than 0"),
        ({"shape": {"times": 0.1, "at": []}}, "at least 1"),
        ({"shape": {"times": 0.1, "at": [60]}}, "no unit"),
    ],
)
def test_bad_curves_and_factors(lr: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        LearningRate.model_validate({"peak": 1, **lr})


def test_train_has_sound_defaults_and_one_length() -> None:
    assert TrainSpec().length == Time(100, "epochs")
    assert TrainSpec(steps=5).length == Time(5, "steps")
    assert TrainSpec(epochs=5).length == Time(5, "epochs")
    with pytest.raises(ValidationError, match="one length"):
        TrainSpec(epochs=5, steps=5)
    with pytest.raises(ValidationError, match="steps"):
        TrainSpec.model_validate({"epoch": "3 epochs"})
    assert TrainSpec.model_validate({"betas": [0.9, 0.95]}).betas == (0.9, 0.95)


@pytest.mark.parametrize("value", [{"epochs": 1.0}, {"epochs": "1"}, {"nesterov": 1}, {"seed": 1}])
def test_train_is_strict(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainSpec.model_validate(value)


def test_bare_forms() -> None:
    assert BatchNormSpec.model_validate("own") == BatchNormSpec(ranks="own", per="view")
    assert BatchNormSpec.model_validate("shuffled") == BatchNormSpec(ranks="shuffled", groups=1)
    assert BatchNormSpec.model_validate({"per": "none"}).ranks == "all"
    assert NodeTrain.model_validate(False) == NodeTrain(enabled=False)
    frozen = NodeTrain.model_validate({"freeze": "1 epoch", "lr": {"scale": 0.2}})
    assert frozen.enabled
    assert frozen.freeze == Time(1, "epochs")
    assert frozen.how == "no_grad"


def test_a_node_has_a_share_of_the_rate_or_its_own() -> None:
    rates = [0.1, {"scale": 0.2}, {"base": 0.05, "shape": "constant"}]
    found = [NodeTrain.model_validate({"lr": rate}).lr for rate in rates]
    assert found == [
        LearningRate(peak=0.1),
        Scale(scale=0.2),
        LearningRate(base=0.05, shape="constant"),
    ]


@pytest.mark.parametrize(
    ("train", "text"),
    [
        ({"lr": {"scale": 0.1, "peak": 1.0}}, "don't go together"),
        ({"lr": {}}, "one size"),
        ({"lr": {"scale": -1}}, "greater than"),
        ({"lr": [1]}, "dictionary"),
        ({"how": "zero_lr"}, "no effect without 'freeze'"),
        ({"freeze": "1 epoch", "how": "never"}, "zero_lr"),
        ({"recompute": "yes"}, "boolean"),
    ],
)
def test_bad_training_of_a_node(train: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        NodeTrain.model_validate(train)


@pytest.mark.parametrize("scope", ["run", "tensor", "node", [["a"]], [["a", "b"], ["c"]]])
def test_scopes_of_clipping(scope: object) -> None:
    assert Clip.model_validate({"norm": 3, "scope": scope}).scope == scope
    assert Clip(norm=3.0).scope == "run"


@pytest.mark.parametrize("scope", ["all", ["a"], [], [[]], [["a"], []], [[1]], 3, {"a": 1}, None])
def test_bad_scopes_of_clipping(scope: object) -> None:
    with pytest.raises(ValidationError, match="not what gradients can be clipped by"):
        Clip.model_validate({"norm": 3, "scope": scope})


def test_groups_need_statistics_of_their_own() -> None:
    for ranks in ("own", "shuffled"):
        assert BatchNormSpec.model_validate({"ranks": ranks, "groups": 8}).groups == 8
    for rule in ({"groups": 8}, {"ranks": "all", "groups": 8}):
        with pytest.raises(ValidationError, match="groups have no statistics of their own"):
            BatchNormSpec.model_validate(rule)
