"""From DOT to a picture: by the `dot` command, else by pygraphviz in a child process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

LaidOut = Literal["svg", "png", "pdf"]

TIMEOUT = 60.0
"""Seconds that Graphviz may take; a method takes less than one."""

_REMEDY = "install Graphviz so that `dot` is on PATH, or `pip install pygraphviz`"
_CHILD = Path(__file__).with_name("_layout.py")


class DrawingError(RuntimeError):
    """A picture that can't be made; one line that says why and what to do."""


def lay_out(source: str, format_: LaidOut) -> bytes:
    """Lay out DOT source.

    Args:
        source: DOT.
        format_: Format of the result.

    Raises:
        DrawingError: Graphviz is missing, fails on the source, or takes longer than `TIMEOUT`.
    """
    faults = []
    for name, command in _ways(format_):
        made = _run(name, command, source)
        if isinstance(made, bytes):
            return made
        faults.append(made)
    raise DrawingError(f"can't draw {format_}: {'; '.join(faults)}; {_REMEDY}")


def _ways(format_: LaidOut) -> Iterator[tuple[str, Sequence[str]]]:
    found = shutil.which("dot")
    if found:
        yield "dot", (found, f"-T{format_}")
    # -P: the child's own folder must not shadow packages; its crash must not be ours.
    yield "pygraphviz", (sys.executable, "-P", str(_CHILD), format_)


def _run(name: str, command: Sequence[str], source: str) -> bytes | str:
    """The picture, or in words why there is none. Warnings about fonts on stderr are dropped."""
    try:
        done = subprocess.run(
            command, input=source.encode(), capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{name} took longer than {TIMEOUT:g} s"
    except OSError as error:
        return f"{name} can't be started ({error.strerror or error})"
    if done.returncode == 0 and done.stdout:
        return done.stdout
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"{name} failed ({said[-1].strip() if said else f'exit status {done.returncode}'})"
