from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sslgraph.files import WriteError, replacing, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_new_file_in_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "x.txt", "one\r\ntwo\n")
    assert (tmp_path / "a" / "b" / "x.txt").read_bytes() == b"one\r\ntwo\n"
    assert names(tmp_path / "a" / "b") == ["x.txt"]


def test_old_content_stays_until_the_body_is_done(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".bin"
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), FileNotFoundError("x")])
def test_failing_body_leaves_the_old_file_and_its_own_error(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def half_written() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        half_written()
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_access_rights_are_those_of_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(WriteError) as caught, replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == f"can't write {path}: No space left on device"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_full_disk_behind_a_librarys_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(WriteError, match="No space left"), replacing(tmp_path / "x"):
        raise RuntimeError("enforce fail at inline_container.cc:671")
    assert names(tmp_path) == []


def test_sync_that_fails_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    write_bytes(tmp_path / "x", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="quota"):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_content_is_synced_before_the_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []

    def fsync(handle: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{handle}")
        seen.append((is_folder, (tmp_path / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "x", b"new")
    assert seen == [(False, False), (True, True)]


def test_path_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(WriteError, match=r"can't write .*x: Is a directory"):
        write_bytes(tmp_path / "x", b"")
    assert names(tmp_path) == ["x"]


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(WriteError, match="can't write"):
        write_bytes(tmp_path / "x" / "y", b"")
