"""Pages about node types, as data."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from sslgraph import registry
from sslgraph.canonical import flow
from sslgraph.describe.wording import in_words
from sslgraph.ports import Declaration, In, Out, Port

_PLACEHOLDERS = {
    "image": "views",
    "tokens": "encoder.tokens",
    "embedding": "encoder.embedding",
    "mask": "masks",
    "label": "batch.label",
    "text": "batch.text",
    "index": "batch.index",
}
_WRITES = {"batch": "once a batch", "step": "once an optimizer step", "epoch": "once an epoch"}
_MAIN = "the one that the bare name means"
_GATHERS = {"grad": "with its gradient", "no_grad": "without gradient"}


@dataclass(frozen=True)
class Setting:
    """One setting of a node type, in words."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class PortLine:
    """One input or output, in words."""

    name: str
    kind: str
    axes: str
    note: str


@dataclass(frozen=True)
class Choice:
    """One of the forms that an entry of a list may have, such as an operation."""

    name: str
    value: str
    meaning: str
    keys: tuple[Setting, ...]


@dataclass(frozen=True)
class NodePage:
    """What there is to know about a node type.

    Args:
        use: Its name.
        summary: First line of its docstring.
        text: The rest of the docstring.
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.
        settings: Its settings, in order.
        choices: Setting -> the forms that an entry of it may have.
        groups: Setting that maps names to groups -> the settings of a group.
        facts: What it does beyond computing outputs from inputs.
        sample: A node of the type as YAML.
        family: Module or file that defines it.
    """

    use: str
    summary: str
    text: str
    inputs: tuple[PortLine, ...]
    outputs: tuple[PortLine, ...]
    settings: tuple[Setting, ...]
    choices: Mapping[str, tuple[Choice, ...]]
    groups: Mapping[str, tuple[Setting, ...]]
    facts: tuple[str, ...]
    sample: str
    family: str


@dataclass(frozen=True)
class Entry:
    """One line of a list of node types."""

    use: str
    family: str
    summary: str


def entries() -> list[Entry]:
    """Every node type, by family; the user's own ones come last.

    Summaries of shipped types are read from the source, so that no library is imported.
    """
    shipped = [
        Entry(use, module.split(".")[2], _written_summary(module, use))
        for use, module in registry.SHIPPED.items()
    ]
    own = [
        Entry(use, "own", registry.find(use).summary)
        for use in registry.names()
        if use not in registry.SHIPPED
    ]
    return shipped + own


def _written_summary(module: str, use: str) -> str:
    for node in ast.walk(_parsed(module)):
        if isinstance(node, ast.ClassDef) and any(
            word.arg == "use" and isinstance(word.value, ast.Constant) and word.value.value == use
            for word in node.keywords
        ):
            return (ast.get_docstring(node) or "").split("\n")[0]
    return registry.find(use).summary


@cache
def _parsed(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ast.Module([], [])
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def node_page(use: str) -> NodePage:
    """The page of a node type.

    Raises:
        UnknownNodeTypeError: No type has this name.
    """
    declared = registry.find(use)
    schema = declared.config.model_json_schema(by_alias=True)
    main = declared.main if len(declared.outputs) > 1 else ""
    summary, _, text = (inspect.getdoc(declared.module) or "").partition("\n")
    return NodePage(
        use=use,
        summary=summary,
        text=text.strip(),
        inputs=tuple(
            _port(port, str(port.kind), _input_note(port)) for port in declared.inputs.values()
        ),
        outputs=tuple(
            _port(port, _kind_of(port, declared), _MAIN if name == main else "")
            for name, port in declared.outputs.items()
        )
        or tuple(_outputs_of_sample(declared)),
        settings=(
            *([_OF] if declared.repeats else []),
            *_settings(schema, meanings(declared.config)),
        ),
        choices=_choices(schema),
        groups=_groups(schema),
        facts=tuple(_facts(declared)),
        sample=sample_yaml(declared),
        family=declared.family,
    )


_OF = Setting("of", "node or list of nodes", "required", "What it repeats.")


def _outputs_of_sample(declared: Declaration) -> Iterator[PortLine]:
    """The outputs that the settings of the sample make, where a type declares none itself."""
    if declared.repeats or not declared.derives:
        return
    try:
        config = declared.config.model_validate(dict(declared.sample))
    except ValidationError:  # the sample names what only a user has, such as a finished run
        return
    for port in declared.of_node(config).outputs.values():
        yield _port(port, str(port.kind), "of the sample below")


def _port(port: Port, kind: str, note: str) -> PortLine:
    return PortLine(port.name, kind, " ".join(port.on_the_wire()), note)


def _kind_of(output: Out, declared: Declaration) -> str:
    """The kind, or the input whose kind passes through."""
    variable = output.kind.variable
    inputs = (name for name, port in declared.inputs.items() if port.kind.variable == variable)
    through = next(inputs, "") if variable else ""
    return f"as {through}" if through else str(output.kind)


def _input_note(port: In) -> str:
    notes = []
    if port.default:
        notes.append(f"{port.default} unless given")
    elif port.optional:
        notes.append("may stay unplugged")
    if port.variadic != "no":
        notes.append("a list is taken as it is, its views are not joined")
    if port.is_written:
        notes.append("stored after the forward pass")
    return ", ".join(notes)


def _facts(declared: Declaration) -> Iterator[str]:
    if declared.is_loss:
        yield "a loss: name it under `minimize`"
    if declared.repeats:
        yield (
            "takes the inputs of the first node of `of` (those of others as `member.input`) and "
            "gives all outputs of all, such as `NAME.encoder.tokens`; its bare name is the last "
            "one's main output"
        )
    if declared.replaces:
        yield "may set what its members have, if their weights stay: such as `drop_path: 0`"
    if declared.draws:
        yield "draws random numbers, a function of seed, node, view and sample"
    if declared.stops_gradient:
        yield "no gradient passes it"
    if declared.writes:
        then = f" and put to use {_WRITES[declared.commits]}" if declared.commits else ""
        yield f"keeps state, written {_WRITES[declared.writes]}{then}, in training only"
    gathers: Mapping[str, str] = getattr(declared.module, "gathers", {})
    for name, how in gathers.items():
        if how != "no":
            yield f"sees {name} of all processes, {_GATHERS.get(how, how)}"


def sample_yaml(declared: Declaration) -> str:
    """A node of this type as YAML: valid settings, references as they are usually called."""
    settings = to_jsonable_python(dict(declared.sample))
    members = [registry.find(member.pop("use")) for member in settings.get("of", ())]
    lines = ["nodes:"]
    for member, own in zip(members, settings.pop("of", ()), strict=True):
        lines += _sample_node(member, _usual_references(member), own)
    references = _usual_references(members[0] if members else declared)
    if members:
        names = [member.use for member in members]
        settings = {"of": names[0] if len(names) == 1 else names, **settings}
    return "\n".join([*lines, *_sample_node(declared, references, settings)])


def _sample_node(
    declared: Declaration, references: Mapping[str, str], settings: Mapping[str, object]
) -> list[str]:
    node: dict[str, object] = {"use": declared.use}
    if len(references) == 1:
        node["in"] = next(iter(references.values()))
    elif references:
        node["in"] = references
    node |= settings
    line = f"  {declared.use}: {flow(node)}"
    if len(line) <= 80:
        return [line]
    return [f"  {declared.use}:", *(f"    {key}: {flow(value)}" for key, value in node.items())]


def _usual_references(declared: Declaration) -> dict[str, str]:
    return {name: _usual_reference(declared.inputs[name]) for name in declared.required}


def _usual_reference(port: In) -> str:
    kind = port.kind.allowed[0]
    if kind == "image" and port.axes[0] == "1":
        return "batch.image"
    return _PLACEHOLDERS.get(kind, "node")


def _settings(schema: Mapping[str, Any], words: Mapping[str, str]) -> tuple[Setting, ...]:
    definitions = schema.get("$defs", {})
    required = schema.get("required", ())
    return tuple(
        Setting(
            name=name,
            type=in_words(item, definitions),
            default="required" if name in required else _default(item),
            meaning=words.get(name) or item.get("description", ""),
        )
        for name, item in schema.get("properties", {}).items()
    )


def _default(item: Mapping[str, Any]) -> str:
    value = item.get("default")
    return "" if value is None else flow(value)


def _choices(schema: Mapping[str, Any]) -> dict[str, tuple[Choice, ...]]:
    """For each setting that lists mappings of several forms, these forms."""
    found = {}
    for name, item in schema.get("properties", {}).items():
        forms = item.get("items", {}).get("anyOf", ()) if item.get("type") == "array" else ()
        if forms and all(form.get("properties") for form in forms):
            found[name] = tuple(_choice(form) for form in forms)
    return found


def _groups(schema: Mapping[str, Any]) -> dict[str, tuple[Setting, ...]]:
    """For each setting that maps names to groups of further settings, those of a group."""
    definitions = schema.get("$defs", {})
    found = {}
    for name, item in schema.get("properties", {}).items():
        target = item.get("additionalProperties")
        reference = target.get("$ref", "") if isinstance(target, Mapping) else ""
        group = definitions.get(reference.rpartition("/")[2], {})
        if group.get("properties"):
            found[name] = _settings({**group, "$defs": definitions}, {})
    return found


def _choice(form: Mapping[str, Any]) -> Choice:
    first, *others = _settings(form, {})
    return Choice(first.name, first.type, form.get("description", ""), tuple(others))


def meanings(config: type[BaseModel]) -> dict[str, str]:
    """What each setting means: its description, else what docstrings say of it."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _attributes(inspect.getdoc(base) or "")
            found |= _below(base)
    for name, info in config.model_fields.items():
        if info.description:
            found[info.alias or name] = info.description
    return {name: text for name, text in found.items() if text}


def _attributes(doc: str) -> dict[str, str]:
    """The entries of the `Attributes:` section of a Google-style docstring."""
    match = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)*)", doc, flags=re.MULTILINE)
    if match is None:
        return {}
    entries: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(match[1]).splitlines():
        entry = re.match(r"(\w+)(?: \(.*?\))?: (.*)", line)
        if entry:
            name = entry[1]
            entries[name] = entry[2]
        elif line.strip() and name:
            entries[name] += " " + line.strip()
    return entries


def _below(config: type[BaseModel]) -> dict[str, str]:
    """The strings that stand below the fields of a class."""
    try:
        source = textwrap.dedent(inspect.getsource(config))
    except (OSError, TypeError):
        return {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in pairwise(body.body):
        match field, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
