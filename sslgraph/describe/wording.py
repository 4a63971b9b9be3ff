"""Types of settings in plain words, read from their JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = {"string": "text", "boolean": "true or false", "number": "number", "null": ""}
_MOST_KEYS = 6


def in_words(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """The type that a JSON Schema describes, such as `whole number, at least 1`.

    Args:
        schema: Of one value.
        definitions: What its `$ref` refer to.
    """
    words = list(dict.fromkeys(_alternatives(schema, definitions)))
    shown = [word for word in words if word] or ["none"]  # null is the word for a default
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _alternatives(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        target = definitions.get(schema["$ref"].rpartition("/")[2], {})
        yield from _referred(target, definitions)
    elif "anyOf" in schema or "oneOf" in schema:
        forms = schema.get("anyOf") or schema["oneOf"]
        if any(_is_each(form) for form in forms):
            forms = [form for form in forms if not _is_each(form) and not _is_by_group(form)]
        if len(forms) > 1 and all(form.get("type") == "object" for form in forms):
            yield "mapping"
            return
        for form in forms:
            yield from _alternatives(form, definitions)
    elif "enum" in schema:
        yield from map(str, schema["enum"])
    elif "const" in schema:
        yield str(schema["const"])
    else:
        yield _plain(schema, definitions)


def _is_each(schema: Mapping[str, Any]) -> bool:
    """Whether this is the form `{each: [...]}`, which every value of an operation may have."""
    return list(schema.get("properties", ())) == ["each"]


def _is_by_group(schema: Mapping[str, Any]) -> bool:
    """Whether this is the form `{global: ..., local: ...}` of operations that groups share."""
    return schema.get("not") == {"required": ["each"]}


def _referred(target: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    keys = list(target.get("properties", ()))
    if "cosine" in keys:
        yield "schedule"
    elif "learned" in keys:
        yield "{learned: number}"
    elif keys:
        more = ", ..." if len(keys) > _MOST_KEYS else ""
        yield "{" + ", ".join(keys[:_MOST_KEYS]) + more + "}"
    else:
        yield from _alternatives(target, definitions)


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kind = schema.get("type", "")
    if kind in ("integer", "number"):
        return _number(schema, "whole number" if kind == "integer" else "number")
    if kind == "array":
        return _list(schema, definitions)
    if kind == "object":
        return "mapping"
    if "examples" in schema:
        return " or ".join(map(str, schema["examples"]))
    if "pattern" in schema:
        return f"text like {schema['pattern']}"
    return _NAMES.get(kind, "any value")


def _list(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    items = schema.get("prefixItems")
    if items:
        return "[" + ", ".join(in_words(item, definitions) for item in items) + "]"
    inner = in_words(schema.get("items", {}), definitions)
    return {"any value": "list", "mapping": "list of mappings"}.get(inner, f"list of: {inner}")


def _number(schema: Mapping[str, Any], name: str) -> str:
    above: float | None = schema.get("exclusiveMinimum")
    least: float | None = schema.get("minimum")
    below, most = schema.get("exclusiveMaximum"), schema.get("maximum")
    if above is not None and schema.get("type") == "integer":
        least, above = above + 1, None
    if least is not None and most is not None:
        return f"{name} from {least:g} to {most:g}"
    limits = ((">", above), (">=", least), ("<", below), ("<=", most))
    texts = [f"{sign} {limit:g}" for sign, limit in limits if limit is not None]
    return " ".join([name, " and ".join(texts)]).strip()


def plural(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
