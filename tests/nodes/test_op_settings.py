"""The grammar of operations: what is understood, what is refused and in which words."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sslgraph.nodes.ops import (
    TABLE,
    OpSetting,
    op_channels,
    parse_ops,
    wrong_channels,
    wrong_order,
    wrong_views,
)


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    ops: list[OpSetting]


GOOD: list[dict[str, Any]] = [
    {"crop": [0.08, 1], "ratio": [0.75, 1.333], "interpolation": "bicubic", "tries": 1},
    {"flip": 0.5},
    {"jitter": [0.4, 0.4, 0.2, 0.1], "p": 0.8},
    {"blur": [0.1, 2.0], "p": {"each": [1.0, 0.1]}},
    {"solarize": 0.5, "p": {"each": [0, 0.2]}},
    {"normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}},
]


def test_values_arrive() -> None:
    crop, flip, jitter, blur, solarize, normalize = parse_ops(GOOD)
    assert crop.at(0).model_dump() == {
        "value": (0.08, 1.0),
        "ratio": (0.75, 1.333),
        "interpolation": "bicubic",
        "antialias": True,
        "tries": 1,
    }
    assert flip.at(1).probability == 0.5
    assert jitter.at(3).probability == 0.8
    assert [blur.at(view).probability for view in (0, 1)] == [1.0, 0.1]
    assert solarize.at(0).probability == 0
    assert normalize.at(0).model_dump()["value"]["std"] == [0.2] * 3


def test_each_may_stand_for_any_value() -> None:
    (crop,) = parse_ops([{"crop": {"each": [[0.3, 1], [0.05, 0.3]]}, "tries": {"each": [1, 2]}}])
    assert crop.at(0).model_dump()["value"] == (0.3, 1.0)
    assert crop.at(1).model_dump() | {"value": (0.05, 0.3), "tries": 2} == crop.at(1).model_dump()


def test_settings_round_trip() -> None:
    config = Config.model_validate({"ops": GOOD})
    assert config.model_dump() == {"ops": GOOD}
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert Config.model_validate(config) == config
    assert hash(config.ops[0]) == hash(again.ops[0])


BAD = [  # entry, place inside the entry, message, expected, help
    ({"corp": [0.08, 1]}, (), "unknown operation 'corp'", "an operation", "did you mean 'crop'?"),
    ("flip", (), "'flip' has no value", "{operation: value, key: value}", "write {flip: ...}"),
    (3, (), "an operation is a mapping", "{operation: value, key: value}", "such as {flip: 0.5}"),
    (
        {"flip": 0.5, "gray": 0.2},
        (),
        "one entry holds the operations 'flip' and 'gray'",
        "one operation an entry",
        "give each its own {...}; they are applied in the order of the list",
    ),
    ({"crop": [0.1]}, ("crop",), "1 value, not 2", "[smallest, largest]", ""),
    ({"crop": 0.1}, ("crop",), "0.1 is not a list", "2 values, [smallest, largest]", ""),
    (
        {"jitter": [0.4, 0.4, 0.4]},
        ("jitter",),
        "3 values, not 4",
        "[brightness, contrast, saturation, hue]",
        "",
    ),
    (
        {"blur": [2, 0.1]},
        ("blur",),
        "the range [2, 0.1] is empty",
        "[smallest, largest]",
        "write [0.1, 2]",
    ),
    (
        {"crop": [0.08, 1], "ratoi": 2},
        ("ratoi",),
        "'crop' has no setting 'ratoi'",
        "a setting of 'crop'",
        "did you mean 'ratio'?",
    ),
    (
        {"blur": [0.1, 2], "p": {"each": [1]}, "kernel": {"each": [3, 5]}},
        (),
        "'each' gives 1 for 'p', 2 for 'kernel'",
        "as many values as the node has views",
        "",
    ),
    (
        {"gray": {"each": []}},
        (),
        "'gray' has a bad 'each'",
        "{each: [value for view 0, value for view 1, ...]}",
        "",
    ),
    (
        {"normalize": {"mean": [1, 2], "std": [1]}},
        ("normalize", "function-after[_same_length(), MeanStd]"),
        "2 means and 1 standard deviations",
        "one mean and one standard deviation a channel",
        "",
    ),
]


@pytest.mark.parametrize(("entry", "place", "title", "expected", "help"), BAD)
def test_mistakes_in_words(
    entry: object, place: tuple[str | int, ...], title: str, expected: str, help: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"ops": [{"flip": 0.5}, entry]})
    found = [d for d in caught.value.errors() if d["type"] == "sslgraph"]
    assert [(d["loc"], d["msg"]) for d in found] == [(("ops", 1, *place), title)]
    assert found[0]["ctx"] == {"title": title, "expected": expected, "help": help}


@pytest.mark.parametrize(
    ("entry", "place", "kind"),
    [
        ({"crop": [0, 1]}, ("crop", 0), "greater_than"),
        ({"crop": [0.5, 1.5]}, ("crop", 1), "less_than_equal"),
        ({"flip": 1.5}, ("flip",), "less_than_equal"),
        ({"flip": True}, ("flip",), "float_type"),
        ({"flip": "0.5"}, ("flip",), "float_type"),
        ({"flip": float("nan")}, ("flip",), "finite_number"),
        ({"jitter": [0.1, 0.1, 0.1, 0.6]}, ("jitter", 3), "less_than_equal"),
        ({"blur": [0, 2]}, ("blur", 0), "greater_than"),
        ({"blur": [1, 2], "kernel": 4}, ("kernel",), "value_error"),
        ({"blur": [1, 2], "p": {"each": [1, 1.5]}}, ("p", "each", 1), "less_than_equal"),
        ({"crop": [0.1, 1], "interpolation": "cubic"}, ("interpolation",), "literal_error"),
        ({"posterize": 9}, ("posterize",), "less_than_equal"),
        ({"resize": 0}, ("resize",), "greater_than_equal"),
        ({"p": 0.5}, (), "sslgraph"),
        ({}, (), "sslgraph"),
    ],
)
def test_bounds(entry: dict[str, Any], place: tuple[str | int, ...], kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_ops([entry])
    assert [(d["loc"], d["type"]) for d in caught.value.errors()] == [((0, *place), kind)]


def test_channels_that_an_operation_needs() -> None:
    ops = parse_ops(
        [
            {"crop": [0.1, 1]},
            {"jitter": [0.4, 0.4, 0, 0]},
            {"jitter": [0.4, 0.4, 0, 0.1]},
            {"gray": 0.2},
            {"normalize": "half"},
            {"normalize": "imagenet"},
        ]
    )
    assert op_channels(ops) == [None, None, 3, 3, None, 3]
    assert wrong_channels(ops, 3) == []
    assert wrong_channels(ops, 4) == [(2, "jitter", 3), (3, "gray", 3), (5, "normalize", 3)]


def test_views_that_each_gives() -> None:
    ops = parse_ops([{"flip": 0.5}, {"gray": {"each": [0.1, 0.2, 0.3]}}])
    assert wrong_views(ops, 3) == []
    assert wrong_views(ops, 2) == [(1, "gray", 3)]


def test_operations_after_normalize() -> None:
    entries = [{"gray": 0.2}, {"normalize": "half"}, {"flip": 0.5}, {"invert": 0.5}]
    assert wrong_order(parse_ops(entries)) == [(3, "invert")]
    assert wrong_order(parse_ops(entries[:1])) == []


def test_every_operation_says_what_computes_it() -> None:
    import kornia

    for name, operation in TABLE.items():
        assert operation.name == name
        assert operation.model_fields["value"].alias == name
        for function in operation.kornia.split(", "):
            place: Any = kornia
            if not function.startswith("none: "):
                home = operation.kornia.rpartition(".")[0].split(", ")[0]
                for part in (function if "." in function else f"{home}.{function}").split("."):
                    place = getattr(place, part)
                assert callable(place)


def test_the_schema_for_editors() -> None:
    schema = TypeAdapter(list[OpSetting]).json_schema()["items"]
    by_name = {option["required"][0]: option for option in schema["anyOf"]}
    assert set(by_name) == set(TABLE)
    for name, option in by_name.items():
        assert option["additionalProperties"] is False
        assert set(option["properties"]) == {
            field.alias or key for key, field in TABLE[name].model_fields.items()
        }
        assert all(
            form["anyOf"][1]["required"] == ["each"] for form in option["properties"].values()
        )
    assert "$ref" not in str(schema)
