"""Checkpoints under faults: at every point of a save, and at every kind of damage afterwards."""

from __future__ import annotations

import errno
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from sslgraph import files
from sslgraph.files import WriteError
from sslgraph.train import checkpoint

FACTS = {"graph": "abc", "seed": 3}


def state(step: int) -> dict[str, Any]:
    return {"method": {"w": torch.full((50,), float(step))}, "step": step, "names": ["a", "b"]}


def saved(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, step, state(step), FACTS) for step in steps]


def latest_step(folder: Path) -> tuple[int, list[str]]:
    lines: list[str] = []
    found = checkpoint.latest(folder, lines.append)
    assert found is not None
    assert torch.equal(found.state["method"]["w"], torch.full((50,), float(found.step)))
    return found.step, lines


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 5)
    found = checkpoint.read(path)
    assert (found.step, found.facts, found.path.name) == (5, FACTS, "00000005")
    assert found.state["names"] == ["a", "b"]


def test_the_newest_two_stay(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010", "00000200"]
    assert latest_step(tmp_path) == (200, [])


def test_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none", print) is None


class Killed(BaseException):
    """Stands for `kill -9`: nothing of ours may run after it."""


Point = tuple[object, str, int]
POINTS: list[Point] = [
    (Path, "mkdir", 2),
    (torch, "save", 1),
    (files, "_flush", 1),
    (checkpoint, "fingerprint", 1),
    (checkpoint, "write_text", 1),
    (Path, "rename", 1),
    (checkpoint, "_flush_folder", 1),
    (checkpoint, "_prune", 1),
    (shutil, "rmtree", 1),
]


def break_at(patch: pytest.MonkeyPatch, point: Point, error: BaseException) -> None:
    """Raise at the n-th call of a function."""
    owner, name, number = point
    original, calls = getattr(owner, name), [0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise error
        return original(*args, **kwargs)

    patch.setattr(owner, name, broken)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point[1])
def test_killed_inside_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: Point
) -> None:
    saved(tmp_path, 5, 10)
    with monkeypatch.context() as patch:
        break_at(patch, point, Killed())
        with pytest.raises(Killed):
            saved(tmp_path, 15)
    step, lines = latest_step(tmp_path)
    assert step in (10, 15)
    assert lines == []
    saved(tmp_path, 15, 20)
    assert latest_step(tmp_path)[0] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000015", "00000020"]


@pytest.mark.parametrize("point", POINTS[:7], ids=lambda point: point[1])
def test_a_full_disk_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: Point
) -> None:
    saved(tmp_path, 5, 10)
    with monkeypatch.context() as patch:
        break_at(patch, point, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(WriteError, match=r"can't write .*No space left on device"):
            saved(tmp_path, 15)
    assert latest_step(tmp_path)[0] in (10, 15)
    assert not list(tmp_path.glob(".tmp*"))
    saved(tmp_path, 20)
    assert latest_step(tmp_path) == (20, [])


def test_the_error_of_torch_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0\nmore"
    break_at(monkeypatch, (torch, "save", 1), RuntimeError(text))
    with pytest.raises(WriteError, match=r"unexpected pos 64 vs 0$"):
        saved(tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


def test_space_is_asked_for_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 500_000))
    with pytest.raises(WriteError, match="it takes 0 MB and 0 MB are free"):
        saved(tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 4
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_damage_is_found_and_put_aside(tmp_path: Path, damage: Any, name: str) -> None:
    _, path = saved(tmp_path, 5, 10)
    damage(path / name)
    step, lines = latest_step(tmp_path)
    assert step == 5
    assert len(lines) == 1
    assert "00000010 is damaged" in lines[0]
    assert (tmp_path / "00000010.corrupt").is_dir()
    assert latest_step(tmp_path) == (5, [])
    saved(tmp_path, 10)
    assert latest_step(tmp_path) == (10, [])


def test_every_single_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 5)
    manifest = path / "manifest.json"
    whole = manifest.read_bytes()
    before = json.loads(whole)
    for place in range(0, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        manifest.write_bytes(bytes(changed))
        try:
            assert checkpoint.read(path).facts == before["facts"]
        except checkpoint.DamagedError:
            continue


def test_a_manifest_of_another_step_or_format(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 5)
    moved = path.rename(path.with_name("00000099"))
    with pytest.raises(checkpoint.DamagedError, match="was changed"):
        checkpoint.read(moved)


@pytest.mark.parametrize("text", ["[]", "null", "7", "{}", "[" * 5000, '{"crc32": 1}'])
def test_manifests_of_other_shapes(tmp_path: Path, text: str) -> None:
    (path,) = saved(tmp_path, 5)
    (path / "manifest.json").write_text(text)
    with pytest.raises(checkpoint.DamagedError):
        checkpoint.read(path)


class Payload:
    def __reduce__(self) -> Any:
        return print, ("must never run",)


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, 5, {"x": Payload()}, FACTS)
    with pytest.raises(checkpoint.DamagedError, match=r"state\.pt can't be read"):
        checkpoint.read(tmp_path / "00000005")
    assert capsys.readouterr().out == ""


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "00000007").write_text("a file")
    saved(tmp_path, 5, 10, 15)
    assert (tmp_path / "notes").is_dir()
    assert (tmp_path / "00000007").is_file()
    assert latest_step(tmp_path) == (15, [])


_ENDLESS = """
import sys, torch
from pathlib import Path
from sslgraph.train import checkpoint
for step in range(1, 10**6):
    checkpoint.save(Path(sys.argv[1]), step, {"w": torch.full((200_000,), float(step))}, {})
    print(step, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_process_killed_while_it_saves(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
        time.sleep(random.random() * 0.1)
        child.send_signal(signal.SIGKILL)
        announced = [3, *map(int, child.stdout.read().split())][-1]
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found is not None
    assert found.step >= announced
    assert torch.equal(found.state["w"], torch.full((200_000,), float(found.step)))
