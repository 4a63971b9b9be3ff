"""Run folders: numbered, never overwritten, one clear line for each path that can't be used."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sslgraph.train.failures import RunError
from sslgraph.train.run_folder import RunFolder, environment
from sslgraph.train.signals import StopRequest


def test_numbers_go_up_and_gaps_stay(tmp_path: Path) -> None:
    assert RunFolder.create("toy", tmp_path).path.name == "toy-001"
    (tmp_path / "toy-007").mkdir()
    (tmp_path / "toy-old").mkdir()
    (tmp_path / "toys-009").mkdir()
    assert RunFolder.create("toy", tmp_path).path.name == "toy-008"
    assert RunFolder.create("other", tmp_path / "new" / "root").path.name == "other-001"


def test_many_at_once_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: RunFolder.create("toy", tmp_path).path, range(40)))
    assert len(set(made)) == 40


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match=r"can't write in .*runs: .*; choose another .* --out DIR"):
        RunFolder.create("toy", tmp_path / "runs")


def test_a_root_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=r"Permission denied; choose another folder"):
        RunFolder.create("toy", tmp_path)


def test_a_named_folder_is_new_or_empty(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path / "mine")
    assert folder.path.is_dir()
    with pytest.raises(RunError, match=r"mine is not empty: give --out a new folder$"):
        RunFolder.at(tmp_path / "mine")
    folder.graph.write_text("")
    with pytest.raises(RunError, match=r"go on with it: sslgraph run --resume .*mine$"):
        RunFolder.at(tmp_path / "mine")


def test_a_named_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(RunError, match=r"can't write in .*mine: File exists"):
        RunFolder.at(tmp_path / "mine")


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no folder .*none: give the folder of a run"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(RunError, match=r"is no run folder: there is no graph\.yaml in it"):
        RunFolder.open(tmp_path)


def test_json_files(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path / "mine")
    folder.write_json(folder.settings, {"seed": 3})
    assert folder.read_json(folder.settings) == {"seed": 3}
    for text in ("{", "[]", "[" * 100_000):
        folder.settings.write_text(text)
        with pytest.raises(RunError, match=r"run\.json"):
            folder.read_json(folder.settings)


def status_of(folder: RunFolder, **changes: object) -> None:
    status = {"state": "running", "time": time.time(), "pid": os.getppid()}
    folder.status.write_text(json.dumps({**status, "host": socket.gethostname(), **changes}))


def test_another_process_that_trains_here_is_seen(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path / "mine")
    assert folder.running_process() is None
    status_of(folder)
    assert folder.running_process() == os.getppid()
    changes: list[dict[str, object]] = [
        {"state": "interrupted"},
        {"time": time.time() - 1000},
        {"pid": os.getpid()},
        {"pid": 2**22 + 5},
        {"host": "elsewhere"},
        {"pid": "x"},
    ]
    for change in changes:
        status_of(folder, **change)
        assert folder.running_process() is None, change


def test_a_heartbeat_on_a_full_disk_is_no_failure(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "gone" / "mine")
    (tmp_path / "gone").write_text("")
    folder.beat("running", step=3)


def test_environment_is_json() -> None:
    facts = json.loads(json.dumps(environment(torch.device("cpu"))))
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["device"] == "cpu"


def test_the_first_signal_leaves_a_note_and_the_second_stops() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.name == ""
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with StopRequest():
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
