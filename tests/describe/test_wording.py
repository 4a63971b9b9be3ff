"""Types in words, from JSON Schemas written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sslgraph.describe.wording import in_words, plural

DEFINITIONS: dict[str, Any] = {
    "Schedule": {"type": "object", "properties": {"cosine": {}, "linear": {}}},
    "Norm": {"type": "object", "properties": {"per": {}, "ranks": {}}},
}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string"}, "text"),
        ({"type": "boolean"}, "true or false"),
        ({"type": "integer", "exclusiveMinimum": 0}, "whole number >= 1"),
        ({"type": "number", "exclusiveMinimum": 0}, "number > 0"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "number from 0 to 1"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number >= 0 and < 1"),
        ({"enum": ["a", "b", "none"]}, "a, b or none"),
        ({"anyOf": [{"type": "integer"}, {"const": "any"}]}, "whole number or any"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text"),
        ({"type": "null"}, "none"),
        ({"anyOf": [{"type": "number"}, {"$ref": "#/$defs/Schedule"}]}, "number or schedule"),
        ({"$ref": "#/$defs/Norm"}, "{per, ranks}"),
        ({"type": "array", "items": {"type": "string"}}, "list of: text"),
        ({"type": "array", "items": {}}, "list"),
        ({"prefixItems": [{"type": "number"}] * 2, "type": "array"}, "[number, number]"),
        ({"type": "string", "pattern": "x", "examples": ["10 epochs", "5%"]}, "10 epochs or 5%"),
        ({"type": "object"}, "mapping"),
        ({}, "any value"),
    ],
)
def test_in_words(schema: dict[str, Any], words: str) -> None:
    assert in_words(schema, DEFINITIONS) == words


def test_plural() -> None:
    assert [plural(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
