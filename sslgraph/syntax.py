"""What a YAML parser says about broken text, in words that tell what to do."""

from __future__ import annotations

import yaml

from sslgraph.errors import Problem
from sslgraph.limits import Lines

# A part of the parser's message -> what is wrong, what to do.
_WORDS = (
    (
        "mapping values are not allowed",
        "':' where no key can begin",
        "give each key a line of its own, indented like its neighbours, and quote text with ': '",
    ),
    ("expected ',' or ']'", "a list goes wrong here", "separate items by ',' and end with ']'"),
    (
        "expected ',' or '}'",
        "a mapping goes wrong here",
        "separate entries by ',', write a space after ':' and end with '}'",
    ),
    (
        "sequence entries are not allowed",
        "'- ' where no list can begin",
        "put the list on the lines below its key, or write it as [a, b]",
    ),
    (
        "'-' indicator",
        "a line in a list that does not begin with '-'",
        "indent it below its item, or end the list",
    ),
    ("expected key", "this line does not fit the block above", "indent keys of one block equally"),
    (
        "expected <block end>",
        "this line does not fit the block above",
        "indent keys of one block equally",
    ),
    ("could not find expected ':'", "a line without 'key:'", "write 'key: value'"),
    ("node content", "a value is missing here", "write one; brackets come in pairs"),
    ("unexpected ':'", "':' before a bracket or comma", "quote a reference that ends with ':'"),
    ("escape character", "an unknown escape in double quotes", "write \\\\ for a backslash"),
    ("incompatible YAML", "another version of YAML", "remove the %YAML line: graphs are YAML 1.2"),
)


_CLOSE = {
    "[": "end the list with ]",
    "{": "end the mapping with }",
    "'": "end the text with '",
    '"': 'end the text with "',
}


def broken(failure: yaml.MarkedYAMLError, lines: Lines) -> Problem:
    """The problem of a text that is no YAML."""
    mark = failure.problem_mark or failure.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    notes: tuple[str, ...] = ()
    begun, context = failure.context_mark, failure.context or ""
    opened = lines.character(begun.line, begun.column) if begun else ""
    if begun and opened in _CLOSE and ("flow" in context or "quoted" in context):
        if lines.ended(line, column) or "end of stream" in (failure.problem or ""):
            span = lines.at(begun.line, begun.column)
            return Problem("E003", f"this {opened} is never closed", span, help=_CLOSE[opened])
        notes = (f"{opened} was opened at {lines.at(begun.line, begun.column)}",)
    title, remedy = _words(failure.problem or "", lines.character(line, column))
    if lines.ended(line, column):
        title, remedy = f"at the end of the text: {title}", "look for a bracket that is not closed"
    return Problem("E003", title, lines.at(line, column), notes=notes, help=remedy)


def _words(message: str, character: str) -> tuple[str, str]:
    if "cannot start any token" in message:
        if character == "\t":
            return "a tab in the indentation", "indent with spaces"
        return f"a value can't begin with '{character}'", "put the value in quotes"
    for part, title, remedy in _WORDS:
        if part in message:
            return title, remedy
    return f"not valid YAML: {message}", ""
