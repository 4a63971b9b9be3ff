"""`metrics.jsonl`: one JSON object a line, in the order of the steps, sound after any crash.

A line holds only what is a function of the run, so a run that was resumed has the same lines as one
that was not; speeds are in `status.json`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from sslgraph.files import write_text

Value = int | float | str | None


class MetricsLog:
    """Appends lines to a file; a full disk costs lines, never the run.

    Args:
        path: The file; it is made if it is missing.
        warn: Gets one line when a write fails, once.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn
        self._warned = False
        self._file = path.open("ab", buffering=0)

    def write(self, record: Mapping[str, Value]) -> None:
        """Append one line; numbers that JSON doesn't know become null."""
        line = (json.dumps({key: _plain(value) for key, value in record.items()}) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                self._file.truncate(end)
                self._complain("the disk is full")
        except OSError as error:
            self._complain(error.strerror or str(error))

    def close(self) -> None:
        """Close the file; whatever was written is with the system already."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _complain(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"can't write {self.path}: {reason}; the run goes on without its metrics")


def read_metrics(path: Path) -> list[dict[str, Value]]:
    """The records of a file; a last line that was cut is left out, a missing file has none.

    Raises:
        ValueError: Another line than the last is no JSON object.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line else None
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number}: no JSON object") from error
        if record is not None:
            records.append(record)
    return records


def cut_after(path: Path, step: int) -> None:
    """Drop the records of later steps, which a resumed run writes again."""
    kept = [record for record in read_metrics(path) if _step(record) <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def _step(record: Mapping[str, Value]) -> float:
    step = record.get("step")
    return step if isinstance(step, (int, float)) else math.inf


def _plain(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
