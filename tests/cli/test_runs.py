"""`sslgraph run`: what reaches training, what stops before it, and the exit codes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sslgraph.train
from sslgraph.data import RUNGS, EmbeddedDigits, ImageFolder
from sslgraph.train import NonFiniteError
from tests.cli.conftest import Command


class Training:
    """Stands in for `train`, and remembers what it was given."""

    def __init__(self, exit_code: int = 0, failure: Exception | None = None) -> None:
        self.given: dict[str, Any] = {}
        self._exit_code = exit_code
        self._failure = failure

    def __call__(self, graph: object, source: object, **given: Any) -> SimpleNamespace:
        self.given = {"graph": graph, "source": source, **given}
        if self._failure:
            raise self._failure
        return SimpleNamespace(exit_code=self._exit_code)


def stand_in(monkeypatch: pytest.MonkeyPatch, training: Training) -> Training:
    monkeypatch.setattr(sslgraph.train, "train", training)
    return training


def photos(folder: Path) -> Path:
    """Six images in each of two sub-folders."""
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_run_on_a_folder_of_images_and_its_resumption(command: Command) -> None:
    photos(Path("photos"))
    result = command("run", "toy.yaml", "--data", "photos", "--workers", "0", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("graph   toy: views, encoder, projector, loss\ndata    photos")
    assert "photos: 12 images" in result.stdout
    assert "sizes 40x30 to 40x30" in result.stdout
    folder = Path("runs/toy-001")
    assert {"graph.yaml", "graph.svg", "metrics.jsonl", "export", "views"} <= {
        path.name for path in folder.iterdir()
    }
    Path("photos").rename("moved")
    again = command("run", "--resume", str(folder))
    assert again.exit_code == 1
    assert again.stderr.startswith("sslgraph: ")
    assert "photos" in again.stderr
    Path("moved").rename("photos")
    again = command("run", "--resume", str(folder))
    assert again.exit_code == 0, again.output
    assert "runs/toy-001 at step 2 of 2" in again.stdout


def test_without_data_it_trains_on_the_embedded_digits_and_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = stand_in(monkeypatch, Training())
    result = command("run", "toy.yaml", "--steps", "7", "--seed", "3", "--out", "here")
    assert result.exit_code == 0
    assert (
        result.stdout.splitlines()[1] == "data    no --data was given, so these come with sslgraph:"
    )
    source, tests = training.given["source"], training.given["test_source"]
    assert isinstance(source, EmbeddedDigits)
    # 8/7 of the views' 24 pixels is 27.4
    assert (source.split, source.canvas, tests.split, tests.canvas) == ("train", 24, "test", 24)
    given = {key: training.given[key] for key in ("steps", "seed", "out", "workers", "device")}
    assert given == {"steps": 7, "seed": 3, "out": Path("here"), "workers": 0, "device": None}


def test_a_folder_gets_processes_that_read_ahead(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = stand_in(monkeypatch, Training())
    photos(Path("photos"))
    assert command("run", "toy.yaml", "--data", "photos").exit_code == 0
    assert isinstance(training.given["source"], ImageFolder)
    assert training.given["test_source"] is None
    assert 1 <= training.given["workers"] <= 8


@pytest.mark.parametrize(
    ("training", "code", "said"),
    [
        (Training(75), 75, ""),
        (
            Training(failure=NonFiniteError("loss is NaN at step 4")),
            3,
            "sslgraph: loss is NaN at step 4\n",
        ),
    ],
)
def test_exit_codes_of_training(
    command: Command, monkeypatch: pytest.MonkeyPatch, training: Training, code: int, said: str
) -> None:
    stand_in(monkeypatch, training)
    result = command("run", "toy.yaml")
    assert (result.exit_code, result.stderr) == (code, said)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("hidden:", "hiden:"), "E102"),
        (("in: projector", "in: encoder.tokens"), "E203"),
        (("arch: test_resnet", "arch: test_vit, image_size: 32"), "E404"),
    ],
)
def test_with_a_mistake_nothing_is_run_or_written(
    command: Command, change: tuple[str, str], code: str
) -> None:
    path = Path("toy.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    result = command("run", "toy.yaml")
    assert result.exit_code == 1
    assert f"error[{code}]" in result.stderr
    assert result.stderr.splitlines()[-1] == "1 problem in toy.yaml (1 error)"
    assert [entry.name for entry in Path().iterdir()] == ["toy.yaml"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Error: give a METHOD, or --resume RUN_DIR"),
        (
            ["--resume", "runs/a", "--seed", "0"],
            "Error: --seed has no place beside --resume: a run goes on as it began",
        ),
        (
            ["toy.yaml", "--resume", "runs/a"],
            "Error: METHOD has no place beside --resume: a run goes on as it began",
        ),
        (
            ["toy.yaml", "--steps", "0"],
            "Error: Invalid value for '--steps': 0 is not in the range x>=1.",
        ),
    ],
)
def test_wrong_usage(command: Command, arguments: list[str], said: str) -> None:
    result = command("run", *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--resume", "runs/a"], "no folder runs/a: give the folder of a run"),
        (["toy.yaml", "--data", "nowhere"], "no such folder: nowhere"),
        (["toy.yaml", "--data", "empty"], "no images in empty"),
        (
            ["toy.yaml", "--set", "data={batch: {channels: 1}}"],
            "the embedded digits have 3 channels, and the method asks for 1",
        ),
    ],
)
def test_data_that_is_not_there_is_one_line(
    command: Command, arguments: list[str], start: str
) -> None:
    Path("empty").mkdir()
    result = command("run", *arguments)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"sslgraph: {start}")
    assert not Path("runs").exists()


def test_a_rung_of_clutter_is_chosen_by_name(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = stand_in(monkeypatch, Training())
    assert command("run", "toy.yaml", "--clutter", "A").exit_code == 0
    for source in (training.given["source"], training.given["test_source"]):
        assert isinstance(source, EmbeddedDigits)
        assert source.clutter == RUNGS["A"]
    assert training.given["notes"]["clutter"] == "A"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--clutter", "D11"], "sslgraph: no clutter 'D11': did you mean 'D10'?\n"),
        (
            ["--clutter", "A", "--data", "photos"],
            "sslgraph: --clutter is for the embedded digits: leave it out beside --data\n",
        ),
    ],
)
def test_a_rung_that_is_not_there(command: Command, arguments: list[str], said: str) -> None:
    photos(Path("photos"))
    result = command("run", "toy.yaml", *arguments)
    assert (result.exit_code, result.stderr) == (1, said)
    assert not Path("runs").exists()
