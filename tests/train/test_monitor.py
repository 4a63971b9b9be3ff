"""What is measured and shown while a run goes on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import sslgraph
from sslgraph.train.chance import ChanceWatch
from sslgraph.train.memory import out_of_memory
from sslgraph.train.monitor import Monitor, Quality, Sample
from sslgraph.train.pictures import save_views
from sslgraph.train.progress import Progress, Reporter, Speed, clock, short
from sslgraph.train.report import Floors, Result, quality_lines
from sslgraph.train_spec import TrainSpec

CPU = torch.device("cpu")


class Features:
    """Stands for a method whose features are given."""

    def __init__(self, of_mean: Any) -> None:
        self._of_mean = of_mean

    def outputs(self, batch: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        colours = batch["image"].float().mean((2, 3))
        return {names[0]: self._of_mean(colours).unsqueeze(0)}


def test_features_that_know_the_class(squares: Any) -> None:
    monitor = Monitor(squares(), squares(seed=1), CPU)
    method: Any = Features(lambda colours: colours - colours.mean(1, keepdim=True))
    quality = monitor.measure(method)
    assert quality.knn == 1.0
    assert quality.width == 3
    assert not quality.collapsed
    assert 1 < quality.rank <= 3
    assert monitor.chance == pytest.approx(1 / 3)
    pixels = monitor.pixels()
    assert pixels is not None
    assert pixels > 0.9


def test_features_that_are_all_one_point(squares: Any) -> None:
    constant: Any = Features(lambda colours: torch.ones(len(colours), 4))
    quality = Monitor(squares(), squares(seed=1), CPU).measure(constant)
    assert quality.collapsed
    assert quality.std == pytest.approx(0.0, abs=1e-6)
    assert quality.knn == pytest.approx(1 / 3)


def test_features_that_are_not_finite(squares: Any) -> None:
    broken: Any = Features(lambda colours: colours * math.nan)
    quality = Monitor(squares(), squares(seed=1), CPU).measure(broken)
    assert quality.knn is None
    assert math.isnan(quality.std)


def test_without_test_images_no_image_asks_itself(squares: Any) -> None:
    source = squares()
    monitor = Monitor(source, None, CPU)
    known = {monitor.bank.uri(i) for i in range(len(monitor.bank))}
    asked = {monitor.tests.uri(i) for i in range(len(monitor.tests))}
    assert not monitor.unseen
    assert len(known) == len(asked) == 15
    assert not known & asked


def test_a_sample_is_the_same_every_time_and_mixes_classes(squares: Any) -> None:
    source = squares()
    one, other = Sample(source, 9), Sample(source, 9)
    assert torch.equal(one.images(range(9)), other.images(range(9)))
    assert len(one) == 9
    assert len({one.label(i) for i in range(9)}) == 3
    assert len({one.uri(i) for i in range(9)}) == 9


def test_progress_in_words() -> None:
    at = Progress(70, 200, 4.612, {"kNN": "16.2%"}, 1234.0, 0.02, 38.2)
    assert str(at) == (
        "step  70/200  35%   loss 4.612   kNN 16.2%   1.2k img/s   data wait 2%   0:38 left"
    )
    assert [clock(s) for s in (0, 59.6, 725, 11045)] == ["0:00", "1:00", "12:05", "3:04:05"]
    assert [short(n) for n in (4.2, 85.3, 999, 1234, 9949, 13000)] == [
        "4.2", "85", "999", "1.2k", "9.9k", "13k"
    ]  # fmt: skip


def test_without_a_terminal_there_is_a_line_every_tenth(screen: Any) -> None:
    reporter = Reporter(screen.console)
    for step in range(1, 101):
        reporter.show(Progress(step, 100, 1.0))
    reporter.close()
    lines = screen.text.splitlines()
    assert len(lines) == 11
    assert "\x1b" not in screen.text
    assert lines[-1].startswith("train   step 100/100 100%")


def test_on_a_terminal_one_line_moves(screen: Any) -> None:
    on_terminal = type(screen)(terminal=True)
    reporter = Reporter(on_terminal.console)
    for step in range(1, 4):
        reporter.show(Progress(step, 3, 1.0))
    reporter.line("between")
    reporter.close()
    assert on_terminal.text.count("\n") < 4
    assert "between" in on_terminal.text
    assert "step 3/3 100%" in on_terminal.text


def test_markup_in_what_users_write_stays_text(screen: Any) -> None:
    Reporter(screen.console).warn("[red]x[/red] [link=evil]")
    assert screen.text == "warning: [red]x[/red] [link=evil]\n"


def test_speed() -> None:
    speed = Speed(images=10)
    assert speed.images_per_second is None
    assert speed.seconds_for(3) is None
    for _ in range(5):
        speed.add(0.5, 0.1)
    assert speed.images_per_second == pytest.approx(20.0)
    assert speed.data_wait == pytest.approx(0.2)
    assert speed.seconds_for(4) == pytest.approx(2.0)


def test_a_loss_at_chance_is_noticed(make_graph: Any, squares: Any) -> None:
    method = sslgraph.compile(make_graph(), seed=0)
    method.clock.set(total_steps=6, steps_per_epoch=3)
    watch = ChanceWatch(method)
    watch.start(0)
    batch = {"image": squares().images(range(8)), "index": torch.arange(8)}
    method(batch)
    level = math.log(2 * 8 - 1)  # one positive among all other views
    assert watch.levels == {"loss": pytest.approx(level)}
    for step in range(1, 31):
        watch.see(step, {"loss": level * 1.004})
    assert watch.stuck(30, 30) == [f"loss 'loss' has been at chance ({level:.3g}) for 30 steps"]
    watch.see(31, {"loss": level * 0.9})
    assert watch.stuck(40, 10) == []


def test_views_are_drawn(tmp_path: Any, make_graph: Any, squares: Any) -> None:
    method = sslgraph.compile(make_graph(), seed=0)
    method.clock.set(total_steps=6, steps_per_epoch=3)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    batch = {"image": squares().images(range(10)), "index": torch.arange(10)}
    save_views(tmp_path / "views" / "step_0000.png", method, batch)
    with Image.open(tmp_path / "views" / "step_0000.png") as picture:
        assert picture.width > 8 * 64
        assert picture.height > 3 * 64
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_out_of_memory_in_words() -> None:
    spec = TrainSpec(batch_size=256, accumulate=2)
    text = str(out_of_memory(torch.OutOfMemoryError("CUDA"), spec, torch.device("cuda:1")))
    assert text == (
        "the GPU (cuda:1) ran out of memory at a batch of 128: try --set train.batch_size=128, or "
        "--set train.amp=bf16, or --set train.accumulate=4 (losses that compare the images of a "
        "batch then see 64 at a time)"
    )
    cpu = out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"), spec, CPU)
    assert str(cpu).startswith("this machine ran out of memory")
    assert out_of_memory(RuntimeError("shapes"), spec, CPU) is None


def test_the_table_at_the_end(tmp_path: Any) -> None:
    quality = Quality(0.412, 0.038, 51.7, 512)
    result = Result(tmp_path, 9, 9, "", 1.5, quality, Floors(0.22, 0.133, 0.101), None)
    assert quality_lines(result, unseen=True, tests=1090) == [
        "done    loss 1.5, feature std 0.038, RankMe 52 of 512",
        "        kNN top-1 on 1090 images never seen in training:",
        "          trained encoder     41.2%",
        "          untrained encoder   22.0%",
        "          raw pixels          13.3%",
        "          chance              10.1%",
    ]
