"""What pydantic finds wrong in a part of a document, as problems with a place and plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sslgraph.canonical import flow
from sslgraph.errors import Problem, did_you_mean
from sslgraph.source import Document, Path

_LONGEST_VALUE = 60

_EXPECTED = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "none": "nothing",
    "finite": "a finite number",
}

_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}


@dataclass(frozen=True)
class Codes:
    """The codes of the three mistakes that a mapping can have."""

    unknown: str
    bad: str
    missing: str


def is_unresolved(value: object) -> bool:
    """Whether a value is a variable that could not be replaced, which was reported already."""
    return isinstance(value, str) and value.startswith("$")


def problems_of(
    error: ValidationError,
    document: Document,
    path: Path,
    model: type[BaseModel],
    *,
    codes: Codes,
    noun: str = "setting",
    sample: Mapping[str, object] | None = None,
) -> list[Problem]:
    """One problem for each place that the error names.

    A missing key of which an unknown one is a near miss is not reported, nor is a variable that
    could not be replaced: both were reported.

    Args:
        error: What validating the data at `path` raised.
        document: Where that data stands.
        path: The way to it.
        model: What it was validated as.
        codes: Codes of an unknown key, a bad value and a missing key.
        noun: What a key is called.
        sample: Values to show for missing keys.
    """
    found: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        place = _place(document, path, details)
        if not is_unresolved(_value(document, place)):
            found.setdefault(place, []).append(details)
    view = _View(document, path, model, codes, noun, sample or {})
    problems = {place: view.problem(place, same) for place, same in found.items()}
    meant = {(p[:-1], x.help) for p, x in problems.items() if x.code == codes.unknown}
    return [
        problem
        for place, problem in problems.items()
        if problem.code != codes.missing
        or (place[:-1], f"did you mean '{place[-1]}'?") not in meant
    ]


@dataclass(frozen=True)
class _View:
    document: Document
    path: Path
    model: type[BaseModel]
    codes: Codes
    noun: str
    sample: Mapping[str, object]

    def problem(self, place: Path, found: list[ErrorDetails]) -> Problem:
        kinds = {details["type"] for details in found}
        if kinds == {"extra_forbidden"}:
            return self._unknown(place)
        if kinds == {"missing"} and not _has(_value(self.document, place[:-1]), place[-1]):
            return self._missing(place)
        return self._bad(place, found)

    def _unknown(self, place: Path) -> Problem:
        return Problem(
            self.codes.unknown,
            f"unknown {self.noun} '{self._name(place)}'",
            self.document.span(*place, key=True),
            help=did_you_mean(str(place[-1]), self._siblings(place), show=f"{self.noun}s"),
        )

    def _missing(self, place: Path) -> Problem:
        shown = flow(self.sample[str(place[-1])]) if place[-1] in self.sample else ""
        help = f"add '{place[-1]}: {shown}'" if shown else f"add '{place[-1]}'"
        title = f"the {self.noun} '{self._name(place)}' is missing"
        return Problem(self.codes.missing, title, self.document.span(*place), help=help)

    def _bad(self, place: Path, found: list[ErrorDetails]) -> Problem:
        expected = list(dict.fromkeys(text for d in found if (text := _expected(d))))
        note = self.document.note(*place)
        value = _value(self.document, place)
        help = next((h for d in found if (h := d.get("ctx", {}).get("help"))), "")
        options = found[0].get("ctx", {}).get("expected", "")
        if found[0]["type"] == "literal_error" and isinstance(value, str):
            near = did_you_mean(
                value, [o.strip("'") for o in options.replace(" or ", ", ").split(", ")]
            )
            help = near if near.startswith("did you mean") else ""
        return Problem(
            self.codes.bad,
            self._title(place, found),
            self.document.span(*place),
            expected=" or ".join(expected),
            got=_shortened(value),
            notes=(note,) if note else (),
            help=help,
        )

    def _title(self, place: Path, found: list[ErrorDetails]) -> str:
        name = self._name(place) or str(place[-1] if place else "")
        for details in found:
            if details["type"] == "sslgraph":
                return f"bad value for '{name}': {details['ctx']['title']}"
        return f"bad value for '{name}'"

    def _name(self, place: Path) -> str:
        return ".".join(map(str, place[len(self.path) :]))

    def _siblings(self, place: Path) -> list[str]:
        """The keys that the mapping at a place's parent may have."""
        models: list[type[BaseModel]] = [self.model]
        for part in place[len(self.path) : -1]:
            fields = [field for m in models for field in _fields(m).items()]
            inner = [m for name, annotation in fields if name == part for m in _models(annotation)]
            models = inner or models
        return [name for m in models for name in _fields(m)]


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _place(document: Document, path: Path, details: ErrorDetails) -> Path:
    """The path of what is wrong: `loc` without the names that pydantic gives to alternatives."""
    loc = details["loc"]
    for count, part in enumerate(loc, start=1):
        known = _value(document, path)
        absent = isinstance(known, dict) and count == len(loc) and details["type"] == "missing"
        if absent or _has(known, part):
            path = (*path, part)
    return path


def _has(value: object, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _value(document: Document, path: Path) -> object:
    value: Any = document.data
    for part in path:
        if not _has(value, part):
            return None
        value = value[part]
    return value


def _shortened(value: object) -> str:
    text = flow(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _expected(details: ErrorDetails) -> str:
    """What would be right, in a few words."""
    error, context = details["type"], details.get("ctx", {})
    if error == "sslgraph":
        return str(context["expected"])
    if error in _LIMITS:
        key, words = _LIMITS[error]
        limit = context[key]
        return f"{words} {limit:g}" if isinstance(limit, int | float) else f"{words} {limit}"
    if error in ("literal_error", "enum"):
        return str(context["expected"])
    if error in ("too_short", "too_long"):
        words, count = ("at least", "min") if error == "too_short" else ("at most", "max")
        return f"{words} {context[count + '_length']} items, not {context['actual_length']}"
    if error == "string_pattern_mismatch":
        return f"text such as {context['pattern']}"
    if error in ("value_error", "assertion_error"):
        return str(context["error"])
    if error == "missing":
        return "more items"
    return _EXPECTED.get(error.partition("_")[0], details["msg"])
