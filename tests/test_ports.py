"""Axis strings, kinds, and how shapes bind to axes."""

from __future__ import annotations

import pytest

from sslgraph.axes import Mismatch, bind_axes
from sslgraph.ports import In, Kind, Out, parse_axes


def test_axes() -> None:
    assert parse_axes("V B C H W") == ("V", "B", "C", "H", "W")
    assert parse_axes("... out") == ("...", "out")
    assert parse_axes("V B ... D") == ("V", "B", "...", "D")
    assert parse_axes("V B N ...") == ("V", "B", "N", "...")
    assert parse_axes("1 size D' K2") == ("1", "size", "D'", "K2")
    assert parse_axes("") == ()
    for wrong in ("B-D", "B ...", "V ... D", "B D ...", "... B ...", "bB", "1a"):
        with pytest.raises(ValueError, match="is no axis"):
            parse_axes(wrong)


def test_kinds() -> None:
    assert Kind.parse("T=embedding/tokens") == Kind(("embedding", "tokens"), "T")
    assert str(Kind.parse("T")) == "any kind"
    assert str(Kind.parse("logits/probs")) == "logits or probs"
    with pytest.raises(ValueError, match="'feature' is no kind; the kinds are image, tokens"):
        Kind.parse("embedding/feature")


def test_the_view_axis() -> None:
    assert str(In("embedding", "B D")) == "embedding[V B D]"
    assert str(In("embedding", "V B D")) == "embedding[V B D]"
    assert str(Out("embedding", "1 size D")) == "embedding[1 size D]"
    assert str(Out("loss", "")) == "loss[]"
    assert not In("image", "B C H W").has_views
    assert In("T", "... D").has_views


def test_required() -> None:
    assert In("image", "B").required
    assert not In("image", "B", optional=True).required
    assert not In("index", "B", default="batch.index").required


def named(port: In, name: str) -> In:
    port.name = name
    return port


def test_binding() -> None:
    bound: dict[str, tuple[int, str]] = {}
    a, b = named(In("embedding", "B D"), "a"), named(In("embedding", "V B D"), "b")
    assert bind_axes(a, (2, 5, 7), bound, {}) is None
    assert bound == {"V": (2, "a"), "B": (5, "a"), "D": (7, "a")}
    assert bind_axes(b, (2, 5, 8), bound, {}) == Mismatch("D", 7, 8, "from a")
    assert bind_axes(b, (5, 7), bound, {}) == "3 axes"


def test_one_view_broadcasts() -> None:
    bound: dict[str, tuple[int, str]] = {}
    a, b = named(In("embedding", "V B D"), "a"), named(In("embedding", "V B D"), "b")
    c = named(In("embedding", "V B D"), "c")
    assert bind_axes(a, (1, 5, 7), bound, {}) is None
    assert bind_axes(b, (3, 5, 7), bound, {}) is None
    assert bound["V"] == (3, "b")
    assert bind_axes(c, (2, 5, 7), bound, {}) == Mismatch("V", 3, 2, "from b")
    assert bind_axes(b, (3, 1, 7), bound, {}) == Mismatch("B", 5, 1, "from a")


def test_settings_numbers_and_open_axes() -> None:
    bound: dict[str, tuple[int, str]] = {}
    size = named(In("embedding", "1 size D"), "size")
    assert bind_axes(size, (1, 6, 2), bound, {"size": 6}) is None
    assert bind_axes(size, (1, 5, 2), {}, {"size": 6}) == Mismatch("size", 6, 5, "setting size")
    assert bind_axes(size, (2, 6, 2), {}, {"size": 6}) == Mismatch("1", 1, 2, "by declaration")
    open_ = named(In("T", "... D"), "open")
    assert bind_axes(open_, (9, 8, 4, 2), bound, {}) is None
    assert bind_axes(open_, (), {}, {}) == "at least 1 axes"
    behind, bound = named(In("T", "V B ... D"), "behind"), {}
    assert bind_axes(behind, (3, 5, 7), bound, {}) is None
    assert bind_axes(behind, (3, 5, 6, 6, 7), bound, {}) is None
    assert {axis: size for axis, (size, _) in bound.items()} == {"V": 3, "B": 5, "D": 7}
    assert bind_axes(behind, (3, 5, 6, 8), bound, {}) == Mismatch("D", 7, 8, "from behind")
    assert bind_axes(behind, (3, 7), {}, {}) == "at least 3 axes"
