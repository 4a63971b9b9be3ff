"""Checkpoints that a crash, a full disk or a flipped bit can't turn into a wrong run.

`sslgraph.saved` says what a checkpoint is and reads it. It is written under a temporary name in the
same folder, flushed file by file and renamed, so a name without `.tmp` is complete.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslgraph.files import WriteError, replacing, write_text
from sslgraph.saved import (
    FORMAT,
    MANIFEST,
    STATE,
    Checkpoint,
    DamagedError,
    checkpoints,
    checksum,
    fingerprint,
    read,
    verified,
)

__all__ = ["Checkpoint", "DamagedError", "latest", "read", "save"]

_SPARE = 1 << 20  # bytes for what stands beside the tensors


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
    for path in reversed(checkpoints(folder)):
        try:
            return read(path)
        except DamagedError as damage:
            moved = _quarantine(path)
            warn(f"checkpoint {path} is damaged ({damage}): put aside as {moved.name}")
    return None


def _write(folder: Path, step: int, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    with replacing(folder / STATE) as path:
        torch.save(dict(state), path)
    manifest = {"format": FORMAT, "step": step, "facts": dict(facts), "files": {}}
    manifest["files"] = {STATE: fingerprint(folder / STATE)}
    manifest["crc32"] = checksum(manifest)
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


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
    names = checkpoints(folder)
    left = [path for path in folder.glob(".tmp-*") if path.is_dir()]
    for path in [*names[: max(0, len(names) - keep)], *left]:
        # First out of the namespace: a folder that is half removed must not look like a checkpoint.
        gone = path if path.name.startswith(".tmp-") else folder / f".tmp-old-{path.name}"
        with suppress(OSError):
            path.rename(gone)
            shutil.rmtree(gone)


def _sound(path: Path) -> bool:
    try:
        verified(path)
    except DamagedError:
        return False
    return True


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
    if free < size + _SPARE:
        raise WriteError(
            f"can't write {final}: it takes {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free"
        )
