import math
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ValidationError

from sslgraph.schedules import Bounds, LearnableNumber, Learned, Number, Schedule, Time


class Settings(BaseModel):
    weight: Annotated[Number, Bounds(gt=0, le=1)] = 0.5
    temperature: LearnableNumber = 1.0
    time: Time | None = None


def schedule(**keys: Any) -> Schedule:
    return Schedule.model_validate(keys)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("10 epochs", Time(10, "epochs")),
        ("1 epoch", Time(1, "epochs")),
        ("5005 steps", Time(5005, "steps")),
        ("1 step", Time(1, "steps")),
        ("1.01e6 steps", Time(1_010_000, "steps")),
        ("5%", Time(5, "percent")),
        ("125 %", Time(125, "percent")),
        ("0.5 epochs", Time(0.5, "epochs")),
    ],
)
def test_time_has_a_unit(text: str, time: Time) -> None:
    assert Time.parse(text) == time
    assert Time.parse(str(time)) == time


@pytest.mark.parametrize(
    "text", [10, 1.5, True, None, "10", "epochs", "-1 steps", "10 epoch s", "1e999 steps", "ten"]
)
def test_other_times_are_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"time": text if text is not None else []})


def test_time_in_steps() -> None:
    assert Time(10, "epochs").steps(None, 312) == 3120
    assert Time(125, "percent").steps(1000, None) == 1250
    assert Time(7, "steps").steps(None, None) == 7
    with pytest.raises(ValueError, match="steps_per_epoch"):
        Time(1, "epochs").steps(1000, None)
    with pytest.raises(ValueError, match="total_steps"):
        Time(1, "percent").steps(None, 10)


def test_cosine_of_byol() -> None:
    # BYOL, section 3.2 with tau_base = 0.996: 1 - (1 - tau) * (cos(pi k / K) + 1) / 2
    momentum = schedule(cosine=[0.996, 1.0])
    assert momentum.needs() == {"total_steps"}
    values = [momentum.value(step, 1000) for step in (0, 250, 500, 1000, 1001)]
    assert values == pytest.approx([0.996, 0.9965858, 0.998, 1.0, 1.0], abs=5e-8)
    assert values[0] == 0.996
    assert values[3] == values[4] == 1.0


def test_linear_waits_moves_and_stays() -> None:
    line = schedule(linear=[2, 4], **{"from": "10 steps", "over": "20 steps"})
    assert line.needs() == set()
    assert [line.value(s) for s in (0, 10, 15, 20, 30, 99)] == [2, 2, 2.5, 3, 4, 4]


def test_without_over_it_ends_with_the_run() -> None:
    line = schedule(linear=[0, 1], **{"from": "50%"})
    assert [line.value(s, 100) for s in (49, 50, 75, 100)] == [0, 0, 0.5, 1]


def test_a_horizon_longer_than_the_run() -> None:
    line = schedule(linear=[0, 1], over="125%")
    assert line.value(100, 100) == pytest.approx(0.8)


def test_by_epoch_is_constant_within_an_epoch() -> None:
    line = schedule(linear=[0, 1], over="4 epochs", by="epoch")
    assert line.needs() == {"steps_per_epoch"}
    assert [line.value(s, None, 10) for s in (0, 9, 10, 19, 20, 39, 40)] == [
        0, 0, 0.25, 0.25, 0.5, 0.75, 1,
    ]  # fmt: skip


def test_then_follows_at_the_end_or_where_it_says() -> None:
    rise = {"linear": [0, 1], "over": "10 steps", "then": {"linear": [1, 0], "over": "10 steps"}}
    assert [schedule(**rise).value(s) for s in (0, 5, 10, 15, 20, 30)] == [0, 0.5, 1, 0.5, 0, 0]
    rise["then"] = {"linear": [1, 0], "from": "20 steps", "over": "10 steps"}
    assert [schedule(**rise).value(s) for s in (10, 19, 20, 25, 30)] == [1, 1, 1, 0.5, 0]


def test_then_to_the_end_of_the_run() -> None:
    warm = schedule(linear=[0, 1], over="10 steps", then={"cosine": [1, 0]})
    assert warm.needs() == {"total_steps"}
    assert warm.value(60, 110) == pytest.approx(0.5)
    quarter = (1 + math.cos(math.pi / 4)) / 2
    assert warm.value(35, 110) == pytest.approx(quarter)


def test_no_length_is_a_jump() -> None:
    jump = schedule(linear=[1, 2], **{"from": "5 steps", "over": "0 steps"})
    assert [jump.value(s) for s in (4, 5, 6)] == [1, 2, 2]


def test_a_missing_horizon_is_an_error() -> None:
    with pytest.raises(ValueError, match="total_steps"):
        schedule(linear=[0, 1]).value(3)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        schedule(linear=[0, 1], over="10 steps", by="epoch").value(3)


@pytest.mark.parametrize(
    "value", [0, 1.5, -1, True, "0.5", None, [1], {"learned": 0.5}, math.nan, math.inf]
)
def test_numbers_out_of_bounds_or_kind(value: object) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"weight": value})


@pytest.mark.parametrize(
    "value",
    [
        {"cosine": [0, 1]},
        {"linear": [0.5, 1.01]},
        {"linear": [0.5, 1], "over": "1 step", "then": {"linear": [1, 2]}},
        {"linear": [0.5, 1], "cosine": [0.5, 1]},
        {"over": "3 steps"},
        {"linear": [0.5]},
        {"linear": [0.5, 1], "then": {"linear": [1, 0.5]}},
        {"linear": [0.5, 1], "until": "3 steps"},
        {"linear": [0.5, "1"]},
    ],
)
def test_bad_schedules(value: object) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"weight": value})


def test_good_numbers() -> None:
    good = Settings.model_validate(
        {"weight": {"linear": [0.5, 1]}, "temperature": {"learned": 0.07, "min": 0.01}}
    )
    assert good.weight == Schedule(linear=(0.5, 1.0))
    assert good.temperature == Learned(learned=0.07, min=0.01)
    assert Settings.model_validate({"weight": 1}).weight == 1.0
    assert Settings(weight=Schedule(linear=(0.5, 1.0))).weight == good.weight
    with pytest.raises(ValidationError):
        Settings.model_validate({"temperature": {"learned": 0.07, "min": 0.1}})


def test_json_schema_has_every_form_and_its_bounds() -> None:
    whole = Settings.model_json_schema(by_alias=True)
    number, moving = whole["properties"]["weight"]["anyOf"]
    assert number == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    assert moving["$ref"] == "#/$defs/Schedule"
    assert moving["properties"]["cosine"] == {"items": number}
    assert len(whole["properties"]["temperature"]["anyOf"]) == 3
    assert {"cosine", "linear", "from", "over", "by", "then"} == set(
        whole["$defs"]["Schedule"]["properties"]
    )
