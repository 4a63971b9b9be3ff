"""Plain scalars of YAML 1.2 (core schema): which words are numbers, and how values are written."""

from __future__ import annotations

import json
import math
import re

Scalar = str | int | float | bool | None

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MOST_DIGITS = 30
_LARGEST = 2**63

_PLAIN = re.compile(r"[A-Za-z0-9_$./\-][A-Za-z0-9_$./+\-:()%<>=;' ]*")
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


class NotFiniteError(ValueError):
    """A number that no setting can have: infinite, not a number, or beyond 64 bits."""


def resolve(text: str) -> Scalar:
    """What a plain (unquoted) scalar means.

    Raises:
        NotFiniteError: It is `.inf`, `.nan`, or a number too large to hold.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return _integer(text, base)
    if _SPECIAL.fullmatch(text):
        raise NotFiniteError(f"{text} is not a finite number")
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise NotFiniteError("the number is too large")
        return number
    return text


def _integer(text: str, base: int) -> int:
    digits = text if base == 10 else text[2:]
    number = int(digits, base) if len(digits) <= _MOST_DIGITS else _LARGEST
    if abs(number) >= _LARGEST:
        raise NotFiniteError("the number is too large")
    return number


def written(value: Scalar) -> str:
    """The scalar as YAML text that resolves to it again, in block and in flow style."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)  # the shortest text that gives the same number
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, int):
        return str(value)
    return value if _is_plain(value) else _quoted(value)


def _is_plain(text: str) -> bool:
    if not _PLAIN.fullmatch(text) or ": " in text or text[-1] in ": " or text[:1] in "-":
        return False
    if text.startswith(("...", "---")):
        return False
    try:
        return resolve(text) == text
    except NotFiniteError:
        return False


def _quoted(text: str) -> str:
    def escaped(match: re.Match[str]) -> str:
        return f"\\u{ord(match.group()):04x}"

    return _UNSAFE.sub(escaped, json.dumps(text, ensure_ascii=False))
