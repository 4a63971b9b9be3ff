"""One entry of a list of operations as it is written: `{blur: [0.1, 2.0], p: {each: [1.0, 0.1]}}`.

The entry is a mapping with exactly one key that names an operation; the other keys are that
operation's own. Any value may be `{each: [...]}`, which gives one value a view; a plain list is
always one value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from sslgraph.errors import did_you_mean
from sslgraph.nodes.ops.base import TABLE, Op
from sslgraph.schedules import fault

_SHAPE = "{operation: value, key: value}"


@dataclass(frozen=True)
class OpSetting:
    """An operation and its settings; use it as ``ops: list[OpSetting]`` in a node's `Config`.

    Args:
        variants: One operation for every view, or one for each view.
        written: The mapping it was parsed from.
    """

    variants: tuple[Op, ...]
    written: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.variants[0].name

    def at(self, view: int) -> Op:
        """The operation with the values of one view.

        Raises:
            IndexError: `each` gives fewer values.
        """
        return self.variants[0] if len(self.variants) == 1 else self.variants[view]

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def parse(cls, value: object) -> OpSetting:
        """The setting that a YAML mapping stands for.

        Raises:
            PydanticCustomError: It names no operation, or its `each` do not agree.
            ValidationError: A value of the operation is wrong; says which key.
        """
        if isinstance(value, OpSetting):
            return value
        name = op_name(value)
        assert isinstance(value, Mapping)
        variants = tuple(_operation(name, value, view) for view in range(_views(value)))
        return cls(variants, dict(value))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        as_written = core_schema.plain_serializer_function_ser_schema(lambda op: dict(op.written))
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=as_written)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return schema_of_ops(lambda item: [item, each_of(item)])


def parse_ops(value: object) -> list[OpSetting]:
    """A list of operations from plain data.

    Raises:
        ValidationError: Something in it is wrong; `errors()` gives the places.
    """
    return TypeAdapter(list[OpSetting]).validate_python(value)


def op_name(value: object) -> str:
    """The one key that names an operation.

    Raises:
        PydanticCustomError: There is none, or there are several.
    """
    if isinstance(value, str) and value in TABLE:
        raise fault(f"'{value}' has no value", expected=_SHAPE, help=f"write {{{value}: ...}}")
    if not isinstance(value, Mapping) or not value:
        raise fault("an operation is a mapping", expected=_SHAPE, help="such as {flip: 0.5}")
    named = [key for key in value if key in TABLE]
    if len(named) == 1:
        return str(named[0])
    if named:
        words = " and ".join(f"'{key}'" for key in named)
        raise fault(
            f"one entry holds the operations {words}",
            expected="one operation an entry",
            help="give each its own {...}; they are applied in the order of the list",
        )
    word = str(next(iter(value)))
    raise fault(
        f"unknown operation '{word}'",
        expected="an operation",
        help=did_you_mean(word, TABLE, show="operations"),
    )


def _views(value: Mapping[str, object]) -> int:
    """How many sets of values an entry holds."""
    counts = {key: _count(key, item) for key, item in value.items() if is_each(item)}
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{n} for '{key}'" for key, n in counts.items())
        raise fault(f"'each' gives {words}", expected="as many values as the node has views")
    return next(iter(counts.values()), 1)


def is_each(value: object) -> bool:
    """Whether a value is meant to be one a view."""
    return isinstance(value, Mapping) and "each" in value


def _count(key: str, value: object) -> int:
    assert isinstance(value, Mapping)
    each = value["each"]
    if len(value) > 1 or not isinstance(each, list | tuple) or not each:
        raise fault(
            f"'{key}' has a bad 'each'",
            expected="{each: [value for view 0, value for view 1, ...]}",
        )
    return len(each)


def _one(value: object, view: int) -> object:
    if not is_each(value):
        return value
    assert isinstance(value, Mapping)
    return value["each"][view]


def _operation(name: str, written: Mapping[Any, object], view: int) -> Op:
    operation = TABLE[name]
    try:
        return operation.model_validate({str(k): _one(v, view) for k, v in written.items()})
    except ValidationError as error:
        lines = [
            _line(operation, written, view, details) for details in error.errors(include_url=False)
        ]
        raise ValidationError.from_exception_data(name, lines) from None


def _line(
    operation: type[Op], written: Mapping[Any, object], view: int, details: Any
) -> InitErrorDetails:
    """The same mistake at its place as written, an unknown key in words that name the operation."""
    loc, found = details["loc"], details["input"]
    if is_each(written.get(loc[0])):
        loc = (loc[0], "each", view, *loc[1:])
    if details["type"] != "extra_forbidden" or len(loc) > 1:
        return moved(details, loc)
    keys = [field.alias or key for key, field in operation.model_fields.items()]
    unknown = fault(
        f"'{operation.name}' has no setting '{loc[0]}'",
        expected=f"a setting of '{operation.name}'",
        help=did_you_mean(str(loc[0]), keys, show="settings"),
    )
    return InitErrorDetails(type=unknown, loc=loc, input=found)


def moved(details: Any, loc: tuple[str | int, ...]) -> InitErrorDetails:
    """A mistake that was found, at another place."""
    context, found = details.get("ctx", {}), details["input"]
    if details["type"] == "sslgraph":
        return InitErrorDetails(type=fault(**context), loc=loc, input=found)
    return InitErrorDetails(type=details["type"], loc=loc, input=found, ctx=context)


def schema_of_ops(forms: Callable[[JsonSchemaValue], list[JsonSchemaValue]]) -> JsonSchemaValue:
    """The schema of an entry.

    Args:
        forms: From the schema of a plain value to those of all forms that it may have.
    """
    return {"type": "object", "anyOf": [_json_schema(op, forms) for op in TABLE.values()]}


def _json_schema(
    operation: type[Op], forms: Callable[[JsonSchemaValue], list[JsonSchemaValue]]
) -> JsonSchemaValue:
    """The operation's schema with other forms allowed in the place of every value."""
    schema = operation.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    schema = _inlined(schema, definitions)
    schema["properties"] = {
        key: {"anyOf": forms(item), **_words(item)} for key, item in schema["properties"].items()
    }
    return {**schema, "description": (operation.__doc__ or "").split("\n")[0]}


def each_of(item: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of `{each: [...]}`."""
    return {
        "type": "object",
        "properties": {"each": {"type": "array", "items": item, "minItems": 1}},
        "required": ["each"],
        "additionalProperties": False,
    }


def _words(item: JsonSchemaValue) -> JsonSchemaValue:
    return {key: item[key] for key in ("description", "default") if key in item}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with references replaced by what they refer to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(item, definitions) for key, item in schema.items()}
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    return schema
