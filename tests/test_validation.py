"""What pydantic says, as one problem a place, in plain words and with the right caret."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sslgraph.errors import Problem
from sslgraph.limits import Place
from sslgraph.reading import parse
from sslgraph.schedules import Bounds, LearnableNumber, Number, Time
from sslgraph.source import Document
from sslgraph.tree import parts, plain
from sslgraph.validation import Codes, problems_of

CODES = Codes(unknown="E102", bad="E103", missing="E104")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: Annotated[int, Field(gt=0, strict=True)]
    mode: Literal["bicubic", "nearest"] = "nearest"


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    out: int
    hidden: list[int] = []
    bias: bool = True
    rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    temperature: Annotated[Number, Bounds(gt=0)] = 0.1
    scale: LearnableNumber = 1.0
    start: Time | None = None
    groups: dict[str, Inner] = {}
    size: int | Literal["dynamic"] = 224
    name: str = ""


def problems(settings: str, **options: Any) -> list[Problem]:
    tree, found = parse(f"nodes:\n  head: {{{settings}}}\n", Place("g.yaml"))
    assert tree is not None, found
    data = plain(tree)
    assert isinstance(data, dict)
    origins = {path: tree.origin for path, tree in parts(tree)}
    document = Document(data, origins, "g.yaml")
    path = ("nodes", "head")
    node: Any = data["nodes"]
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(node["head"])
    return problems_of(caught.value, document, path, Config, codes=CODES, **options)


def one(settings: str, **options: Any) -> tuple[str, str, str, str, str]:
    """Code, title, the text above the caret, what is expected, and the help of the one problem."""
    (problem,) = problems(settings, **options)
    span = problem.span
    marked = span.text[span.column - 1 : span.end_column - 1]
    return problem.code, problem.title, marked, problem.expected, problem.help


def test_an_unknown_setting_at_its_key() -> None:
    found = one("out: 1, hiden: [2]")
    assert found == ("E102", "unknown setting 'hiden'", "hiden", "", "did you mean 'hidden'?")
    found = one("out: 1, groups: {a: {size: 1, mod: x}}", noun="option")
    assert found[1:3] == ("unknown option 'groups.a.mod'", "mod")
    assert found[4] == "did you mean 'mode'?"
    found = one("out: 1, temperature: {cosin: [1, 2]}")
    assert found[1:3] == ("unknown setting 'temperature.cosin'", "cosin")
    assert found[4] == "did you mean 'cosine'?"


def test_a_missing_setting_at_the_node() -> None:
    found = one("hidden: [2]", sample={"out": 4})
    assert found == ("E104", "the setting 'out' is missing", "head", "", "add 'out: 4'")
    assert one("hidden: [2]")[4] == "add 'out'"


def test_a_near_miss_is_not_reported_as_missing_too() -> None:
    assert [problem.code for problem in problems("oute: 3, bias: 1")] == ["E103", "E102"]


@pytest.mark.parametrize(
    ("settings", "name", "marked", "expected"),
    [
        ("out: many", "out", "many", "a whole number"),
        ("out: 1.5", "out", "1.5", "a whole number"),
        ("out: 1, hidden: [1, x]", "hidden.1", "x", "a whole number"),
        ("out: 1, hidden: 2", "hidden", "2", "a list"),
        ("out: 1, bias: on", "bias", "on", "true or false"),
        ("out: 1, rate: 1", "rate", "1", "less than 1"),
        ("out: 1, rate: -1", "rate", "-1", "at least 0"),
        ("out: 1, temperature: 0", "temperature", "0", "more than 0"),
        ("out: 1, name: [a]", "name", "[a]", "text"),
        ("out: 1, groups: 3", "groups", "3", "a mapping"),
        ("out: 1, groups: {a: {size: 0}}", "groups.a.size", "0", "more than 0"),
        ("out: 1, groups: {a: b}", "groups.a", "b", "a mapping"),
        ("out: 1, size: big", "size", "big", "a whole number or 'dynamic'"),
    ],
)
def test_a_bad_value_at_its_place(settings: str, name: str, marked: str, expected: str) -> None:
    assert one(settings)[:4] == ("E103", f"bad value for '{name}'", marked, expected)


def test_words_of_our_own_validators() -> None:
    found = one("out: 1, start: 10")
    assert found[1:4] == ("bad value for 'start': 10 has no unit", "10", "a time with a unit")
    found = one("out: 1, temperature: {linear: [1, -1]}")
    assert found[1:3] == ("bad value for 'temperature': -1 is out of bounds", "{linear: [1, -1]}")
    assert found[3] == "every value > 0"
    found = one("out: 1, scale: {learned: 1, min: 2}")
    assert found[3] == "min <= learned <= max"
    found = one("out: 1, scale: big")
    assert "{learned: 0.07, min: 0.01}" in found[3]


def test_a_near_word_is_proposed() -> None:
    assert one("out: 1, groups: {a: {size: 1, mode: bicubik}}")[4] == "did you mean 'bicubic'?"


def test_a_variable_that_was_reported_is_not_reported_again() -> None:
    assert problems("out: $missing, bias: 3")[0].title == "bad value for 'bias'"
    assert problems("out: $missing") == []
