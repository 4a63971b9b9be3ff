"""Data as YAML in one form: one order of keys, short values in flow style, at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from sslgraph.scalars import Scalar, written

WIDTH = 100
ORDER = (
    "sslgraph",
    "name",
    "title",
    "paper",
    "family",
    "summary",
    "data",
    "vars",
    "nodes",
    "minimize",
    "outputs",
    "train",
    "presets",
)

_BLOCKS = ("nodes", "presets")


def canonical(data: Mapping[str, object]) -> str:
    """The data as YAML text that reads back as equal data."""
    lines: list[str] = []
    for key in [k for k in ORDER if k in data] + [k for k in data if k not in ORDER]:
        value = data[key]
        if isinstance(value, Mapping) and value and key in _BLOCKS:
            lines += [f"{key}:", *_block(value, 2)]
        else:
            lines += _entry(f"{written(key)}:", value, 0)
    return "\n".join(lines) + "\n"


def _block(data: Mapping[str, object], indent: int) -> list[str]:
    pad = " " * indent
    return [
        line
        for key, value in data.items()
        for line in _entry(f"{pad}{written(key)}:", value, indent)
    ]


def _entry(head: str, value: object, indent: int) -> list[str]:
    """A key with its value: on one line, else a mapping as a block and a list filled up."""
    line = f"{head} {flow(value)}"
    if len(line) <= WIDTH:
        return [line]
    if isinstance(value, Mapping):
        return [head, *_block(value, indent + 2)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _filled(f"{head} [", [flow(item) for item in value])
    if isinstance(value, str) and value == " ".join(value.split()):
        return [f"{head} >-", *_folded(value, indent + 2)]
    return [line]


def _filled(head: str, items: Sequence[str]) -> list[str]:
    """A flow list over several lines, its items below each other's beginning."""
    pad = " " * len(head)
    lines = [head]
    for place, item in enumerate(items):
        text = item + ("]" if place == len(items) - 1 else ",")
        gap = "" if lines[-1] in (head, pad) else " "
        if len(lines[-1]) + len(gap) + len(text) <= WIDTH:
            lines[-1] += gap + text
        else:
            lines.append(pad + text)
    return lines


def _folded(text: str, indent: int) -> list[str]:
    pad = " " * indent
    return textwrap.wrap(
        text,
        width=WIDTH,
        initial_indent=pad,
        subsequent_indent=pad,
        break_long_words=False,
        break_on_hyphens=False,
    )


def flow(value: object) -> str:
    """The value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    assert isinstance(value, Scalar)
    return written(value)
