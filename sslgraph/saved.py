"""What a run leaves on disk, as those read it who don't train: names of files, checkpoints.

A checkpoint is a folder named by its step::

    checkpoints/00000500/state.pt        tensors, read back with `weights_only=True`
    checkpoints/00000500/manifest.json   facts of the run, size and CRC32 of each file

Its name has no `.tmp` where it is complete. CRC32 finds what happens to the bytes afterwards: torch
and safetensors read a file with a flipped bit without complaint.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT = 1

GRAPH, CHECKPOINTS = "graph.yaml", "checkpoints"
"""In the folder of a run."""
STATE, MANIFEST = "state.pt", "manifest.json"
"""In the folder of a checkpoint."""
METHOD = "method"
"""The key of a checkpoint's state that holds the state dict of the method."""

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


def read(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        DamagedError: A file is missing, cut, changed or not ours.
    """
    manifest = verified(path)
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{STATE} can't be read: {str(error).splitlines()[0]}") from error
    return Checkpoint(path, manifest["step"], state, manifest["facts"])


def checkpoints(folder: Path) -> list[Path]:
    """Folders named by a step, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def verified(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are what it says.

    Raises:
        DamagedError: They are not, or it was changed itself.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        written = manifest.pop("crc32")
        files = manifest["files"].items()
        if written != checksum(manifest) or manifest["step"] != int(path.name):
            raise DamagedError(f"{MANIFEST} was changed")
    except FileNotFoundError as error:
        raise DamagedError(f"{MANIFEST} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{MANIFEST} can't be read") from error
    if manifest["format"] != FORMAT:
        raise DamagedError(f"format {manifest['format']}, this version reads {FORMAT}")
    for name, expected in files:
        _require_equal(path / name, expected)
    assert isinstance(manifest, dict)
    return manifest


def _require_equal(path: Path, expected: Mapping[str, int]) -> None:
    try:
        found = fingerprint(path)
    except OSError as error:
        raise DamagedError(f"{path.name} can't be read: {error.strerror}") from error
    if found["bytes"] != expected["bytes"]:
        raise DamagedError(f"{path.name} has {found['bytes']} of {expected['bytes']} bytes")
    if found != expected:
        raise DamagedError(f"{path.name} has other content than was written")


def fingerprint(path: Path) -> dict[str, int]:
    """Size and CRC32 of a file."""
    total = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return {"bytes": total, "crc32": crc}


def checksum(manifest: Mapping[str, Any]) -> int:
    """CRC32 of a manifest, its own left out."""
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
