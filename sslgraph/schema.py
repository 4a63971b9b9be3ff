"""JSON Schema of a method file, for editors: node types with their settings, and the run.

Every node is one of the forms `{use: TYPE, ...}`, told apart by `use`. Where a file extends another
one, and in a preset, a node may leave out `use` and change some settings only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from sslgraph import registry
from sslgraph.describe.nodes import meanings
from sslgraph.loading import shipped_methods
from sslgraph.ports import Declaration, In
from sslgraph.schedules import Number
from sslgraph.spec import DataSpec
from sslgraph.train_spec import NodeTrain, TrainSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_VARIABLE = {
    "$comment": "$name takes the value from `vars`; null deletes what another file says",
    "anyOf": [{"type": "string", "pattern": r"^\$[A-Za-z_][A-Za-z0-9_]*$"}, {"type": "null"}],
}
_REFERENCE = {
    "title": "reference",
    "description": "node, node.port, node.0 (a view) or node.port.0:2 (views); batch.image is data",
    "type": "string",
    "pattern": r"^[a-z][a-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(\.([0-9]+|[0-9]*:[0-9]*))?$",
    "examples": ["batch.image", "encoder.embedding", "projector.0"],
}
_REFERENCES = {
    "anyOf": [
        {"$ref": "#/$defs/reference"},
        {"type": "array", "items": {"$ref": "#/$defs/reference"}, "minItems": 1},
        {"$ref": "#/$defs/variable"},
    ]
}
_NODE_NAME = {"pattern": "^[a-z][a-z0-9_]*$", "not": {"const": "batch"}}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"}

# A model's short form, which its validator turns into the long one.
_SHORT: Mapping[str, Schema] = {
    "LearningRate": {"type": "number", "minimum": 0, "description": "the peak, as it is"},
    "BatchNormSpec": {"enum": ["all", "own", "shuffled"], "description": "`ranks` alone"},
    "NodeTrain": {"type": "boolean", "description": "false: trains nothing"},
}


class _Minimize(BaseModel):
    """An entry of `minimize`, for its schema."""

    weight: Number


def json_schema(uses: Iterable[str] | None = None) -> Schema:
    """The schema of a whole file.

    Args:
        uses: Node types that it knows; every registered one if None.
    """
    declared = [registry.find(use) for use in (registry.names() if uses is None else uses)]
    configs = dict.fromkeys(declaration.config for declaration in declared)
    models: list[type[BaseModel]] = [_Minimize, NodeTrain, TrainSpec, DataSpec, *configs]
    asked: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in models
    ]
    places, schema = models_json_schema(asked, by_alias=True)
    definitions: Schema = {name: _described(item) for name, item in schema["$defs"].items()}
    own = {
        model: definitions.pop(place["$ref"].rpartition("/")[2])
        for (model, _), place in places.items()
        if model is _Minimize or model in configs
    }
    definitions |= {"variable": _VARIABLE, "reference": _REFERENCE}
    replaced = _settings_of_members(declared, own)
    for declaration in declared:
        others = replaced if declaration.replaces else {}
        definitions |= _node_forms(declaration, own[declaration.config], others)
    names = [declaration.use for declaration in declared]
    definitions["node"] = {"oneOf": [{"$ref": f"#/$defs/node.{name}"} for name in names]}
    definitions["change"] = {"anyOf": [{"$ref": f"#/$defs/change.{name}"} for name in names]}
    top = _top(own[_Minimize]["properties"]["weight"])
    return {"$schema": DIALECT, "title": "sslgraph method", **top, "$defs": definitions}


def _described(schema: Schema) -> Schema:
    """A model's schema for a text with variables, its short form beside it where it has one."""
    adapted = _value(schema)
    short = _SHORT.get(schema.get("title", ""))
    return {"anyOf": [short, adapted]} if short else adapted


def _top(weight: Schema) -> Schema:
    overlay = _overlay(weight)
    preset = {"type": "object", "properties": overlay, "additionalProperties": False}
    changes = {"properties": {"nodes": _nodes("change")}}
    whole = {"required": ["nodes"], "properties": {"nodes": _nodes("node")}}
    properties: Schema = {
        "sslgraph": {"const": 1, "description": "version of the format"},
        "name": {**_NAME, "description": "short name; run folders are called so"},
        "title": _text("name of the method as papers write it"),
        "paper": _text("address of the paper"),
        "family": _text("group of methods"),
        "summary": _text("one sentence"),
        "extends": _extends(),
        **overlay,
        "nodes": {"type": "object", "description": "the graph: node name -> node"},
        "presets": {
            "type": "object",
            "description": "named changes, chosen by --preset",
            "additionalProperties": preset,
        },
    }
    return {
        "type": "object",
        "required": ["sslgraph"],
        "properties": properties,
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "then": changes,
        "else": whole,
    }


def _overlay(weight: Schema) -> Schema:
    """What a file and a preset have in common."""
    return {
        "data": {"$ref": "#/$defs/DataSpec", "description": "what the data gives"},
        "vars": {
            "type": "object",
            "description": "values by name, used as $name",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        },
        "nodes": _nodes("change"),
        "minimize": {
            "type": "object",
            "description": "loss node -> its weight, a number or a schedule",
            "propertyNames": _NODE_NAME,
            "additionalProperties": weight,
        },
        "outputs": {
            "type": "object",
            "description": "what kNN, probes, export and pictures use",
            "additionalProperties": {"anyOf": _REFERENCES["anyOf"][::2]},
        },
        "train": {"$ref": "#/$defs/TrainSpec", "description": "the run"},
    }


def _nodes(form: str) -> Schema:
    return {
        "type": "object",
        "propertyNames": _NODE_NAME,
        "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{form}"}, {"type": "null"}]}
        if form == "change"
        else {"$ref": f"#/$defs/{form}"},
    }


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _extends() -> Schema:
    names = list(shipped_methods())
    return {
        "description": "a method, or a .yaml file from this file's folder, that this one changes",
        "anyOf": [{"enum": names}, {"type": "string", "pattern": r"\.ya?ml$"}],
    }


def _settings_of_members(
    declared: Sequence[Declaration], own: Mapping[type[BaseModel], Schema]
) -> Schema:
    """What a copy may replace: every setting that some type has, since `of` names nodes."""
    found: dict[str, list[Schema]] = {}
    for declaration in declared:
        if declaration.repeats:
            continue
        for name in own[declaration.config].get("properties", {}):
            found.setdefault(name, []).append({"$ref": f"#/$defs/{declaration.use}.{name}"})
    text = "in the place of what its members have"
    return {name: {"description": text, "anyOf": forms} for name, forms in found.items()}


def _node_forms(declared: Declaration, config: Schema, others: Schema) -> Schema:
    """The whole node, with what it needs, and the form that only changes some of it.

    Args:
        declared: The type.
        config: The schema of its settings.
        others: Settings of other types that it may have too.
    """
    words = meanings(declared.config)
    settings = {
        f"{declared.use}.{name}": {"description": words[name], **item} if name in words else item
        for name, item in config.get("properties", {}).items()
    }
    form = {
        "type": "object",
        "title": declared.use,
        "description": declared.summary,
        "properties": {
            "use": {"const": declared.use, "description": declared.summary},
            **others,
            "in": _inputs(declared),
            **{key.partition(".")[2]: {"$ref": f"#/$defs/{key}"} for key in settings},
            "train": {
                "description": "the node's own training, laid over the run's",
                "anyOf": [{"$ref": "#/$defs/NodeTrain"}, {"$ref": "#/$defs/variable"}],
            },
            "weights": _text("where its first weights come from"),
            **({"of": _OF} if declared.repeats else {}),
        },
        "additionalProperties": False,
    }
    needed = ["use", *(["in"] if declared.required else []), *config.get("required", ())]
    needed += ["of", "in"] if declared.repeats else []
    return {
        **settings,
        f"node.{declared.use}": {**form, "required": needed},
        f"change.{declared.use}": form,
    }


_OF: Schema = {
    "description": "the node that it repeats, or a chain of nodes that feed each other",
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"$ref": "#/$defs/variable"},
    ],
}


def _inputs(declared: Declaration) -> Schema:
    if declared.repeats:
        description = "inputs of the first node of `of`; others as `member.input`"
        several: Schema = {"type": "object", "additionalProperties": _REFERENCES}
        return {"description": description, "anyOf": [*_REFERENCES["anyOf"], several]}
    ports = {
        name: {**_REFERENCES, "description": _port_text(port)}
        for name, port in declared.inputs.items()
    }
    mapping = {
        "type": "object",
        "properties": ports,
        "required": declared.required,
        "additionalProperties": False,
    }
    forms = [mapping] if len(declared.required) > 1 else [*_REFERENCES["anyOf"], mapping]
    described = ", ".join(f"{name} ({_port_text(port)})" for name, port in declared.inputs.items())
    return {"description": f"inputs: {described}", "anyOf": forms}


def _port_text(port: In) -> str:
    return str(port) if port.required else f"{port}, optional"


def _value(schema: Any) -> Any:
    """The same schema with `$name` and null allowed wherever a part of it has a value."""
    if not isinstance(schema, dict):
        return schema
    changed = dict(schema)
    if schema.get("type") == "object":
        changed.pop("title", None)  # the names of Python classes
    if "properties" in schema:
        items = schema["properties"].items()
        changed["properties"] = {name: _or_variable(item) for name, item in items}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            changed[key] = _or_variable(schema[key])
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if key in schema:
            work = _or_variable if key == "prefixItems" else _value
            changed[key] = [work(item) for item in schema[key]]
    return changed


def _or_variable(schema: Schema) -> Schema:
    kept: Schema = {
        key: schema[key] for key in ("description", "default", "examples") if key in schema
    }
    inner = {key: value for key, value in schema.items() if key not in ("title", *kept)}
    forms = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    forms = [_value(form) for form in forms if form != {"type": "null"}]
    if isinstance(kept.get("default"), dict):
        del kept["default"]  # a Python object, not what a user would write
    return {**kept, "anyOf": [*forms, {"$ref": "#/$defs/variable"}]}
