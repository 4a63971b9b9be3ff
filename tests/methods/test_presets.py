"""A method's small preset trains on a folder of images, resumes, and leaves a backbone."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from rich.console import Console

import sslgraph
from sslgraph.data import ImageFolder
from sslgraph.plan import make_plan
from sslgraph.train import checkpoint, resume, train
from tests.methods.shipped import chosen
from tests.train.test_run import at_step, require_equal

SHORT = {"train.batch_size": 16, "train.steps": 4}
# What a batch of 16 asks for: parts that are whitened have more samples than dimensions.
ASKED = {"w_mse": {"vars.part": 16, "vars.dim": 8}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-six coloured pictures of three sizes in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for number in range(36):
        width, height = ((48, 40), (60, 44), (37, 61))[number % 3]
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        place = folder / ("left", "right")[number % 2] / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(place)
    return folder


@pytest.mark.parametrize("name", chosen())
def test_a_folder_of_images_is_enough(name: str, photos: Path, tmp_path: Path) -> None:
    graph = short(name)
    images = ImageFolder(photos, canvas=make_plan(graph).canvas())
    quiet = Console(file=io.StringIO())
    result = train(graph, images, out=tmp_path / "run", console=quiet)
    assert (result.step, result.total_steps) == (4, 4)
    assert result.quality is not None
    assert torch.isfinite(torch.tensor(result.loss))
    assert result.backbone is not None
    config = json.loads((result.backbone.parent / "config.json").read_text(encoding="utf-8"))
    model = timm.create_model(
        config["architecture"], **config["model_args"], checkpoint_path=str(result.backbone)
    )
    assert sum(p.numel() for p in model.parameters()) > 0


@pytest.mark.parametrize("name", chosen())
def test_a_run_goes_on_as_if_it_never_stopped(
    name: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow copies, queues, centers and their counters are in the checkpoint."""
    graph = short(name)
    images = ImageFolder(photos, canvas=make_plan(graph).canvas())
    quiet = Console(file=io.StringIO())
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(graph, images, out=straight, console=quiet)
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        stopped = train(graph, images, out=broken, console=quiet)
    assert (stopped.step, stopped.signal) == (2, "SIGTERM")
    resume(broken, images, console=quiet)
    require_equal(last_state(straight), last_state(broken))


def short(name: str) -> sslgraph.Graph:
    return sslgraph.load(name, preset="tiny", set={**SHORT, **ASKED.get(name, {})})


def last_state(run: Path) -> object:
    return checkpoint.read(max((run / "checkpoints").iterdir())).state
