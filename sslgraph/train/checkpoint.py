"""Checkpoints that a crash, a full disk or a flipped bit can't turn into a wrong run.

A checkpoint is a folder named by its step::

    checkpoints/00000500/state.pt        tensors, read back with `weights_only=True`
    checkpoints/00000500/manifest.json   facts of the run, size and CRC32 of each file

It is written under a temporary name in the same folder, flushed file by file and renamed, so a name
without `.tmp` is complete. CRC32 finds what happens to the bytes afterwards: torch and safetensors
read a file with a flipped bit without complaint.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslgraph.files import WriteError, replacing, write_text

FORMAT = 1

_STATE, _MANIFEST = "state.pt", "manifest.json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    Args:
        path: Its folder.
        step: Optimizer steps done.
        state: What was saved; tensors are on the CPU.
        facts: What was noted about the run.
    """

    path: Path
    step: int
    state: dict[str, Any]
    facts: dict[str, Any]


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint; those before it stay until it is safe on the disk.

    Args:
        folder: Where the run's checkpoints are.
        step: Optimizer steps done; a sound checkpoint of this step is left as it is.
        state: Tensors and plain values in dicts, lists and tuples.
        facts: What JSON can hold.
        keep: How many of the newest stay.

    Raises:
        WriteError: The disk is full or refuses; nothing is left of the attempt.
    """
    final = folder / f"{step:08d}"
    if final.exists() and _sound(final):
        return final
    _require_space(folder, _size_of(state), final)
    temporary = folder / f".tmp-{final.name}-{secrets.token_hex(4)}"
    try:
        _write(temporary, step, state, facts)
        _publish(temporary, final)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, WriteError):
            raise
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise WriteError(f"can't write {final}: {reason}") from error
    _prune(folder, keep)
    return final


def latest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest sound checkpoint, None if there is none.

    Damaged ones are renamed to end in `.corrupt`, so nothing reads them again.

    Args:
        folder: Where the run's checkpoints are.
        warn: Gets one line for each damaged checkpoint.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            return read(path)
        except DamagedError as damage:
            moved = _quarantine(path)
            warn(f"checkpoint {path} is damaged ({damage}): put aside as {moved.name}")
    return None


def read(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        DamagedError: A file is missing, cut, changed or not ours.
    """
    manifest = _verified(path)
    try:
        state = torch.load(path / _STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{_STATE} can't be read: {str(error).splitlines()[0]}") from error
    return Checkpoint(path, manifest["step"], state, manifest["facts"])


def _write(folder: Path, step: int, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    with replacing(folder / _STATE) as path:
        torch.save(dict(state), path)
    manifest = {"format": FORMAT, "step": step, "facts": dict(facts), "files": {}}
    manifest["files"] = {_STATE: _fingerprint(folder / _STATE)}
    manifest["crc32"] = _checksum(manifest)
    write_text(folder / _MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _publish(temporary: Path, final: Path) -> None:
    if final.exists():
        _quarantine(final)
    temporary.rename(final)
    _flush_folder(final.parent)


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut; only POSIX systems can open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(folder: Path, keep: int) -> None:
    """Remove old checkpoints, and what earlier processes left half written."""
    names = _checkpoints(folder)
    left = [path for path in folder.glob(".tmp-*") if path.is_dir()]
    for path in [*names[: max(0, len(names) - keep)], *left]:
        # First out of the namespace: a folder that is half removed must not look like a checkpoint.
        gone = path if path.name.startswith(".tmp-") else folder / f".tmp-old-{path.name}"
        with suppress(OSError):
            path.rename(gone)
            shutil.rmtree(gone)


def _checkpoints(folder: Path) -> list[Path]:
    """Folders named by a step, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def _sound(path: Path) -> bool:
    try:
        _verified(path)
    except DamagedError:
        return False
    return True


def _verified(path: Path) -> dict[str, Any]:
    """The manifest, after its own checksum and those of all files held."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        written = manifest.pop("crc32")
        files = manifest["files"].items()
        if written != _checksum(manifest) or manifest["step"] != int(path.name):
            raise DamagedError(f"{_MANIFEST} was changed")
    except FileNotFoundError as error:
        raise DamagedError(f"{_MANIFEST} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{_MANIFEST} can't be read") from error
    if manifest["format"] != FORMAT:
        raise DamagedError(f"format {manifest['format']}, this version reads {FORMAT}")
    for name, expected in files:
        _require_equal(path / name, expected)
    assert isinstance(manifest, dict)
    return manifest


def _require_equal(path: Path, expected: Mapping[str, int]) -> None:
    try:
        found = _fingerprint(path)
    except OSError as error:
        raise DamagedError(f"{path.name} can't be read: {error.strerror}") from error
    if found["bytes"] != expected["bytes"]:
        raise DamagedError(f"{path.name} has {found['bytes']} of {expected['bytes']} bytes")
    if found != expected:
        raise DamagedError(f"{path.name} has other content than was written")


def _fingerprint(path: Path) -> dict[str, int]:
    total = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return {"bytes": total, "crc32": crc}


def _checksum(manifest: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _quarantine(path: Path) -> Path:
    target, number = path.with_name(f"{path.name}.corrupt"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.corrupt{number}")
    with suppress(OSError):
        path.rename(target)
    return target


def _size_of(value: object) -> int:
    """Bytes of all tensors in a nested state."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_size_of, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_size_of, value))
    return 0


def _require_space(folder: Path, size: int, final: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise WriteError(f"can't write {final}: {error.strerror}") from error
    if free < size + _CHUNK:
        raise WriteError(
            f"can't write {final}: it takes {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free"
        )
