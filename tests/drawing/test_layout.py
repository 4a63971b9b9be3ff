"""Graphviz: on PATH, in the package, missing, failing or slow."""

import os
import shutil
from pathlib import Path

import pytest

from sslgraph.drawing import DrawingError, layout
from sslgraph.drawing.layout import lay_out

SOURCE = 'digraph { a -> b [label="\u00e9"] }'


def put_dot_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def make_child_fail(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    path = folder / "child.py"
    path.write_text(program, encoding="utf-8")
    monkeypatch.setattr(layout, "_CHILD", path)


@pytest.fixture
def no_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shutil.which("dot") is None


@pytest.mark.usefixtures("no_dot")
@pytest.mark.parametrize(("format_", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_no_dot_is_needed(
    format_: layout.LaidOut, start: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert lay_out(SOURCE, format_).startswith(start)
    assert capfd.readouterr() == ("", "")


def test_dot_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_dot_on_path(tmp_path, monkeypatch, 'echo "$1"; cat')
    assert lay_out(SOURCE, "pdf").decode() == f"-Tpdf\n{SOURCE}"


def test_a_broken_dot_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_dot_on_path(tmp_path, monkeypatch, "echo half; echo no such plugin >&2; exit 1")
    assert b"<svg" in lay_out(SOURCE, "svg")


@pytest.mark.usefixtures("no_dot")
def test_without_graphviz_one_line_names_both_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_child_fail(tmp_path, monkeypatch, "import no_such_package")
    with pytest.raises(DrawingError) as caught:
        lay_out(SOURCE, "svg")
    assert str(caught.value) == (
        "can't draw svg: pygraphviz failed "
        "(ModuleNotFoundError: No module named 'no_such_package'); "
        "install Graphviz so that `dot` is on PATH, or `pip install pygraphviz`"
    )


@pytest.mark.usefixtures("no_dot")
def test_a_crash_of_graphviz_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_child_fail(tmp_path, monkeypatch, "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(DrawingError, match=r"pygraphviz failed \(exit status -11\)"):
        lay_out(SOURCE, "svg")


def test_each_way_that_failed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_dot_on_path(tmp_path, monkeypatch, "echo no such plugin >&2; exit 1")
    make_child_fail(tmp_path, monkeypatch, "raise SystemExit('bad day')")
    with pytest.raises(DrawingError) as caught:
        lay_out(SOURCE, "svg")
    assert "dot failed (no such plugin); pygraphviz failed (bad day); " in str(caught.value)


@pytest.mark.usefixtures("no_dot")
def test_a_slow_layout_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_child_fail(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(layout, "TIMEOUT", 0.5)
    with pytest.raises(DrawingError, match=r"pygraphviz took longer than 0\.5 s"):
        lay_out(SOURCE, "svg")
