"""The folder of a run: everything needed to read, repeat and resume it.

runs/<name>-001/
graph.yaml        the graph as it runs, variables and presets resolved
run.json          seed, data, device, length: what the graph doesn't say
env.json          versions, machine, command
graph.svg         its picture
views/            what each branch sees
metrics.jsonl     loss and quality by step
status.json       heartbeat: where it is, or how it ended
checkpoints/      the last two
export/           the backbone for timm
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sslgraph.command import command
from sslgraph.files import write_text
from sslgraph.saved import CHECKPOINTS, GRAPH
from sslgraph.train.failures import RunError

_PACKAGES = ("sslgraph", "torch", "torchvision", "timm", "kornia", "numpy", "safetensors")
_STALE_AFTER = 180.0


class RunFolder:
    """Paths of a run and the small files in it.

    Args:
        path: The folder; use `create`, `at` or `open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.graph = path / GRAPH
        self.settings = path / "run.json"
        self.environment = path / "env.json"
        self.picture = path / "graph.svg"
        self.views = path / "views"
        self.metrics = path / "metrics.jsonl"
        self.status = path / "status.json"
        self.checkpoints = path / CHECKPOINTS
        self.export = path / "export"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, name: str, root: Path = Path("runs")) -> RunFolder:
        """Make the next of `<name>-001`, `<name>-002`, ...; two processes never get the same one.

        Raises:
            RunError: The folder can't be made.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            number = 1 + max(map(int, _numbers(root, name)), default=0)
            while True:
                path = root / f"{name}-{number:03d}"
                with suppress(FileExistsError):
                    path.mkdir()
                    return cls(path)
                number += 1
        except OSError as error:
            raise _unusable(root, error) from error

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """Use a folder that the user named, new or empty.

        Raises:
            RunError: It holds something already, or can't be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                remedy = "give --out a new folder"
                if (path / GRAPH).exists():
                    remedy += f", or go on with it: {command()} run --resume {path}"
                raise RunError(f"{path} is not empty: {remedy}")
            write_text(path / "status.json", "{}\n")
        except OSError as error:
            raise _unusable(path, error) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            RunError: It is no such folder.
        """
        if not path.is_dir():
            raise RunError(f"no folder {path}: give the folder of a run, such as runs/NAME-001")
        folder = cls(path)
        for needed in (folder.graph, folder.settings):
            if not needed.is_file():
                raise RunError(f"{path} is no run folder: there is no {needed.name} in it")
        return folder

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Replace a JSON file of the folder.

        Raises:
            WriteError: The disk is full or refuses.
        """
        write_text(path, json.dumps(dict(content), indent=1) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Raises:
            RunError: It is missing or no JSON object.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} can't be read: {error}") from error
        if not isinstance(content, dict):
            raise RunError(f"{path} holds no JSON object")
        return content

    def beat(self, state: str, **facts: Any) -> None:
        """Say in `status.json` that the run is alive, or how it ended; trouble is ignored."""
        content = {"state": state, "time": time.time(), "pid": os.getpid()}
        with suppress(OSError):
            self.write_json(self.status, {**content, "host": socket.gethostname(), **facts})

    def running_process(self) -> int | None:
        """The process on this machine that trains in this folder now, None if there is none."""
        with suppress(RunError, KeyError, TypeError, ValueError, OverflowError):
            status = self.read_json(self.status)
            fresh = time.time() - float(status["time"]) < _STALE_AFTER
            here = status["host"] == socket.gethostname() and int(status["pid"]) != os.getpid()
            if status["state"] == "running" and fresh and here and _alive(int(status["pid"])):
                return int(status["pid"])
        return None


def environment(device: torch.device) -> dict[str, Any]:
    """What the run depends on outside its folder: versions, machine, command."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(root: Path, name: str) -> list[str]:
    pattern = re.compile(re.escape(name) + r"-([0-9]{3,9})")
    return [match[1] for path in root.iterdir() if (match := pattern.fullmatch(path.name))]


def _alive(pid: int) -> bool:
    if os.name != "posix" or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unusable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"can't write in {path}: {error.strerror or error}; choose another folder with --out DIR"
    )
