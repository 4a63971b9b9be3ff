"""The metrics file: whole lines after crashes, full disks and resumption."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from sslgraph.train.metrics import MetricsLog, cut_after, read_metrics


def written(path: Path, *steps: int) -> Path:
    with MetricsLog(path, pytest.fail) as log:
        for step in steps:
            log.write({"step": step, "loss": step / 3})
    return path


def test_lines_are_json_objects_in_order(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", 1, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 1 / 3},
        {"step": 2, "loss": 2 / 3},
    ]


def test_a_line_is_there_before_the_file_is_closed(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl", pytest.fail) as log:
        log.write({"step": 1})
        assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1}]


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl", pytest.fail) as log:
        log.write({"step": 1, "loss": float("nan"), "norm": float("inf")})
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "loss": None, "norm": None}]


def test_a_cut_last_line_is_left_out_and_then_gone(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", 1, 2, 3)
    path.write_bytes(path.read_bytes()[:-4])
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    cut_after(path, 5)
    written(path, 3)
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl:2: no JSON object"):
        read_metrics(path)


def test_later_steps_are_cut(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", 1, 2, 3, 4)
    before = path.read_text().splitlines()
    cut_after(path, 2)
    assert path.read_text().splitlines() == before[:2]


def test_no_file_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none") == []
    cut_after(tmp_path / "none", 3)
    assert read_metrics(tmp_path / "none") == []


class FullDisk(io.FileIO):
    """Takes a few bytes of each write, then nothing."""

    room = 5

    def write(self, data: object) -> int:
        assert isinstance(data, bytes)
        return super().write(data[: self.room])


def test_a_full_disk_warns_once_and_leaves_no_half_line(tmp_path: Path) -> None:
    lines: list[str] = []
    path = written(tmp_path / "m.jsonl", 1)
    log = MetricsLog(path, lines.append)
    whole = log._file
    log._file = FullDisk(path, "ab")
    log.write({"step": 2})
    log.write({"step": 3})
    log._file.close()
    log._file = whole
    log.write({"step": 4})
    log.close()
    assert lines == [f"can't write {path}: the disk is full; the run goes on without its metrics"]
    assert [record["step"] for record in read_metrics(path)] == [1, 4]
