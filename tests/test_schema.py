"""The JSON Schema of method files, judged by the jsonschema package."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sslgraph import registry
from sslgraph.describe.nodes import sample_yaml
from sslgraph.limits import Place
from sslgraph.loading import shipped_methods
from sslgraph.reading import parse
from sslgraph.schema import json_schema
from sslgraph.tree import plain

GRAPH: dict[str, Any] = {
    "sslgraph": 1,
    "vars": {"dim": 8},
    "nodes": {
        "views": {"use": "augment", "in": "batch.image", "ops": [{"flip": 0.5}]},
        "encoder": {"use": "encoder", "in": "views", "arch": "resnet18"},
        "projector": {"use": "projector", "in": "encoder.embedding", "out": "$dim"},
        "loss": {"use": "nt_xent", "in": ["projector.0", "projector.1:"]},
    },
    "minimize": {"loss": 1.0},
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def places(schema: dict[str, Any], data: object) -> list[str]:
    """Where the data is wrong, as dotted paths."""
    judge = jsonschema.Draft202012Validator(schema)
    return sorted(".".join(map(str, error.absolute_path)) for error in judge.iter_errors(data))


def changed(path: str, value: object) -> dict[str, Any]:
    data = copy.deepcopy(GRAPH)
    *parents, last = path.split(".")
    at: Any = data
    for key in parents:
        at = at.setdefault(key, {})
    at[last] = value
    return data


def read(text: str) -> object:
    tree, problems = parse(text, Place("text"))
    assert not problems
    assert tree is not None
    return plain(tree)


def test_it_is_a_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", shipped_methods())
def test_shipped_methods_pass(schema: dict[str, Any], name: str) -> None:
    text = shipped_methods()[name].read_text(encoding="utf-8")
    assert places(schema, read(text)) == []


@pytest.mark.parametrize("use", registry.SHIPPED)
def test_the_sample_of_each_node_type_passes(schema: dict[str, Any], use: str) -> None:
    data = read(f"sslgraph: 1\n{sample_yaml(registry.find(use))}")
    assert places(schema, data) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nodes.loss.temperature", {"cosine": [0.1, 0.2], "over": "10 epochs"}),
        ("nodes.loss.temperature", "$t"),
        ("nodes.loss.in", {"x": "projector"}),
        ("nodes.encoder.train", False),
        ("nodes.encoder.train", {"lr": {"scale": 0.1}}),
        ("nodes.encoder.batch_norm", "own"),
        ("nodes.views.ops", [{"blur": [0.1, 2.0], "p": {"each": [1.0, 0.1]}}]),
        ("minimize.loss", {"linear": [0, 1]}),
        ("train.lr", 0.1),
        ("train.lr", {"base": 0.3, "per": "sqrt 1", "warmup": "5%"}),
        ("outputs.embedding", "encoder.embedding"),
        ("presets.small", {"nodes": {"projector": {"hidden": [4]}, "loss": None}}),
        ("presets.small", {"train": {"lr": {"base": None, "peak": 0.1}}}),
    ],
)
def test_what_is_right_passes(schema: dict[str, Any], path: str, value: object) -> None:
    assert places(schema, changed(path, value)) == []


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("nodes.projector.hiden", [4], "nodes.projector"),
        ("nodes.projector.hidden", "wide", "nodes.projector"),
        ("nodes.projector.out", 0, "nodes.projector"),
        ("nodes.projector.use", "projektor", "nodes.projector"),
        ("nodes.projector.in", "Encoder Embedding", "nodes.projector"),
        ("nodes.projector.in", {"y": "encoder.embedding"}, "nodes.projector"),
        ("nodes.encoder", {"use": "encoder", "in": "views"}, "nodes.encoder"),
        ("nodes.loss", {"temperature": 0.3}, "nodes.loss"),
        ("nodes.loss.temperature", {"cosine": [0.1, -0.2]}, "nodes.loss"),
        ("nodes.loss.temperature", {"cosine": [0.1, 0.2], "over": "10"}, "nodes.loss"),
        ("nodes.views.ops", [{"flop": 0.5}], "nodes.views"),
        ("train.optimiser", "sgd", "train"),
        ("train.epochs", 0, "train.epochs"),
        ("train.lr", {"peak": 0.1, "warm": "5%"}, "train.lr"),
        ("minimize.loss", "much", "minimize.loss"),
        ("outputs.embedding", 3, "outputs.embedding"),
        ("notes", "x", ""),
        ("sslgraph", 2, "sslgraph"),
        (
            "presets.small",
            {"nodes": {"projector": {"hiden": [4]}}},
            "presets.small.nodes.projector",
        ),
    ],
)
def test_what_is_wrong_is_found(
    schema: dict[str, Any], path: str, value: object, place: str
) -> None:
    found = places(schema, changed(path, value))
    assert found
    assert all(wrong.startswith(place) for wrong in found)


def test_a_file_that_extends_another_may_change_settings_only(schema: dict[str, Any]) -> None:
    name = next(iter(shipped_methods()))
    data = {"sslgraph": 1, "extends": name, "nodes": {"loss": {"temperature": 0.3}}}
    assert places(schema, data) == []
    data["nodes"] = {"loss": {"temprature": 0.3}}
    assert places(schema, data) == ["nodes.loss"]
    assert places(schema, {"sslgraph": 1, "extends": "no method"}) == ["extends"]


def test_editors_get_a_text_for_every_setting(schema: dict[str, Any]) -> None:
    without = [
        f"{use}.{name}"
        for use in registry.SHIPPED
        for name, item in schema["$defs"][f"node.{use}"]["properties"].items()
        if not (item.get("description") or schema["$defs"][f"{use}.{name}"].get("description"))
    ]
    assert without == []


def words(schema: object) -> Iterator[str]:
    """Every key, choice and type name that a schema knows, whatever the version of pydantic."""
    if isinstance(schema, dict):
        for name, item in schema.get("properties", {}).items():
            yield f"key {name}"
            yield from words(item)
        yield from (f"choice {choice}" for choice in schema.get("enum", ()))
        yield from (f"choice {schema[key]}" for key in ("const",) if key in schema)
        for key, item in schema.items():
            if key != "properties":
                yield from words(item)
    elif isinstance(schema, list):
        for item in schema:
            yield from words(item)


def test_the_schema_in_the_package_is_up_to_date() -> None:
    path = Path(str(files("sslgraph"))) / "sslgraph.schema.json"
    shipped = json.loads(path.read_text(encoding="utf-8"))
    made = json_schema(registry.SHIPPED)
    remedy = "make it anew: sslgraph schema -o sslgraph/sslgraph.schema.json"
    assert sorted(shipped["$defs"]) == sorted(made["$defs"]), remedy
    for name, definition in made["$defs"].items():
        assert sorted(words(shipped["$defs"][name])) == sorted(words(definition)), remedy
    assert sorted(words(shipped)) == sorted(words(made)), remedy
