"""Whole runs of a toy graph: resumption to the bit, and what happens when things go wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.files import WriteError
from sslgraph.train import NonFiniteError, Result, RunError, checkpoint, resume, run_settings, train
from sslgraph.train.loop import Loop, Pace
from sslgraph.train.metrics import read_metrics


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints every two steps, evaluation every three."""
    pace = Pace(record=1, read=1, evaluate=3, save=2)
    monkeypatch.setattr(Pace, "of", classmethod(lambda cls, total, device: pace))


def state_of(folder: Path, step: int = 6) -> dict[str, Any]:
    return checkpoint.read(folder / "checkpoints" / f"{step:08d}").state


def require_equal(a: object, b: object, place: str = "") -> None:
    """Equal to the bit, whatever is nested in what."""
    assert type(a) is type(b), place
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        assert a.dtype == b.dtype, place
        assert torch.equal(a, b), place
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        assert list(a) == list(b), place
        for key in a:
            require_equal(a[key], b[key], f"{place}/{key}")
    else:
        assert a == b, place


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something when the loop has done a step."""
    original = Loop._after

    def after(self: Loop, *args: Any) -> None:
        if self.step == step:
            action()
        original(self, *args)

    monkeypatch.setattr(Loop, "_after", after)


class Killed(BaseException):
    """Stands for `kill -9`."""


def kill() -> None:
    raise Killed


SETTINGS: list[dict[str, Any]] = [
    {},
    {"accumulate": 2, "clip": {"norm": 0.5}, "optimizer": "sgd"},
    {"optimizer": "lars", "form": "pre", "no_decay": ["bias", "norm"], "amp": "bf16"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["adamw", "sgd", "lars"])
def test_stopped_and_resumed_is_as_straight(
    tmp_path: Path,
    make_graph: Any,
    squares: Any,
    screen: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    source, tests = squares(), squares(seed=1)
    train(make_graph(**settings), source, test_source=tests, out=straight, seed=3)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        result = train(
            make_graph(**settings),
            source,
            test_source=tests,
            out=broken,
            seed=3,
            console=screen.console,
        )
    assert (result.exit_code, result.step, result.signal) == (75, 3, "SIGTERM")
    assert "SIGTERM: stopped after step 3 of 6, saved step 3\n" in screen.text
    assert f"go on   sslgraph run --resume {broken}\n" in screen.text
    assert json.loads((broken / "status.json").read_text())["state"] == "interrupted"
    result = resume(broken, source, test_source=tests)
    assert (result.exit_code, result.step) == (0, 6)
    require_equal(state_of(straight), state_of(broken))
    assert (straight / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()


def test_killed_after_a_checkpoint_and_resumed(
    tmp_path: Path, make_graph: Any, squares: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(make_graph(), squares(), out=straight)
    with monkeypatch.context() as patch:
        at_step(patch, 5, kill)
        with pytest.raises(Killed):
            train(make_graph(), squares(), out=broken)
    assert json.loads((broken / "status.json").read_text())["state"] == "failed"
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    resume(broken, squares())
    require_equal(state_of(straight), state_of(broken))
    assert (straight / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()


def test_killed_before_the_first_checkpoint(
    tmp_path: Path, make_graph: Any, squares: Any, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(make_graph(), squares(), out=straight)
    with monkeypatch.context() as patch:
        at_step(patch, 1, kill)
        with pytest.raises(Killed):
            train(make_graph(), squares(), out=broken)
    resume(broken, squares(), console=screen.console)
    assert "no checkpoint so far: starting at step 0" in screen.text
    require_equal(state_of(straight), state_of(broken))


def test_a_damaged_checkpoint_costs_the_steps_after_the_one_before(
    tmp_path: Path, make_graph: Any, squares: Any, screen: Any
) -> None:
    train(make_graph(), squares(), out=tmp_path / "run")
    whole = state_of(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "00000006" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    resume(tmp_path / "run", squares(), console=screen.console)
    assert "00000006 is damaged (state.pt has" in screen.text
    assert "at step 4 of 6" in screen.text
    require_equal(whole, state_of(tmp_path / "run"))


def test_a_finished_run_may_be_resumed(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    first = train(make_graph(), squares(), out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = resume(tmp_path / "run", squares())
    assert (again.step, again.quality, again.floors) == (6, first.quality, first.floors)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == lines


def test_the_folder_of_a_run(tmp_path: Path, make_graph: Any, squares: Any, screen: Any) -> None:
    out = tmp_path / "run"

    def draw(graph: Any, path: Path) -> None:
        path.write_text(graph.name)

    result = train(
        make_graph(),
        squares(),
        test_source=squares(seed=1),
        out=out,
        seed=5,
        draw=draw,
        target="mine.yaml",
        notes={"data": "here"},
        console=screen.console,
    )
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"graph.yaml", "run.json", "env.json", "graph.svg", "metrics.jsonl"} <= names
    assert {"status.json", "views/step_0000.png", "checkpoints/00000006/state.pt"} <= names
    settings = run_settings(out)
    assert (settings["seed"], settings["notes"], settings["samples"]) == (5, {"data": "here"}, 30)
    steps = [r for r in read_metrics(out / "metrics.jsonl") if "loss" in r]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert set(steps[0]) == {"step", "loss", "lr", "gradient_norm", "loss.loss"}
    assert [record["lr"] for record in steps[:3]] == [0.0, 0.005, 0.01]
    measured = [r["step"] for r in read_metrics(out / "metrics.jsonl") if "knn" in r]
    assert measured == [3, 6]
    assert isinstance(result, Result)
    assert result.quality is not None
    assert result.floors.chance == pytest.approx(1 / 3)
    assert "no backbone was exported: encoder.embedding comes from a node of type" in screen.text
    for words in ("trained encoder", "untrained encoder", "raw pixels", "chance"):
        assert words in screen.text
    assert "kNN top-1 on 30 images never seen in training:" in screen.text
    assert "sslgraph new my_method --from mine.yaml" in screen.text


def test_without_labels(tmp_path: Path, make_graph: Any, squares: Any, screen: Any) -> None:
    source = squares(labelled=False)
    result = train(make_graph(), source, out=tmp_path / "run", console=screen.console)
    assert result.quality is not None
    assert result.quality.knn is None
    assert "no labels, so no kNN" in screen.text


def test_numbered_folders(
    tmp_path: Path, make_graph: Any, squares: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = train(make_graph(), squares(), steps=1)
        assert result.folder == Path(f"runs/toy-00{number}")


def test_the_caller_keeps_its_random_numbers(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    before = torch.get_rng_state()
    train(make_graph(), squares(), out=tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())


def first_training_call(tap: Any, make_graph: Any, squares: Any, tmp_path: Path) -> int:
    """How often the tap is called before the first step, so faults can be put at a step."""
    tap.calls = 0
    train(make_graph(), squares(labelled=False), out=tmp_path / "count", steps=1)
    after_one = int(tap.calls)
    tap.calls = 0
    return after_one - 1


def test_a_step_that_is_not_finite_changes_nothing(
    tmp_path: Path, make_graph: Any, squares: Any, screen: Any, tap: Any
) -> None:
    first = first_training_call(tap, make_graph, squares, tmp_path)
    tap.bad = {first + 4: None, first + 5: None}  # after four steps, with a checkpoint
    out = tmp_path / "run"
    result = train(make_graph(), squares(labelled=False), out=out, console=screen.console)
    assert result.step == 6
    assert screen.text.count("step 5 skipped: loss 'loss' is nan; nothing was updated") == 2
    before, after = state_of(out, 4), state_of(out)
    assert (before["position"], after["position"]) == (4, 8)
    assert int(after["method"]["clock.step"]) == 6
    assert all(v.isfinite().all() for v in after["method"].values() if v.is_floating_point())
    records = read_metrics(out / "metrics.jsonl")
    assert [r["step"] for r in records if "skipped" in r] == [5, 5]


def test_three_in_a_row_stop_the_run(
    tmp_path: Path, make_graph: Any, squares: Any, tap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_training_call(tap, make_graph, squares, tmp_path)
    tap.bad = dict.fromkeys(range(first + 2, first + 9))
    states: list[dict[str, Any]] = []
    original = Loop._skip

    def skip(self: Loop, *args: Any) -> None:
        kept = {k: v.clone() for k, v in self.updater.method.state_dict().items()}
        states.append(kept)
        original(self, *args)

    monkeypatch.setattr(Loop, "_skip", skip)
    out = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"stopped at step 3: loss 'loss' is nan") as raised:
        train(make_graph(), squares(labelled=False), out=out)
    assert raised.value.exit_code == 3
    assert "step 2" in str(raised.value)
    assert len(states) == 3
    for state in states:
        require_equal(dict(state_of(out, 2)["method"]), state)
    assert json.loads((out / "status.json").read_text())["state"] == "failed"


def test_a_gradient_that_is_not_finite_names_the_parameter(
    tmp_path: Path, make_graph: Any, squares: Any, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslgraph.train.step import Updater

    original = Updater.begin
    calls = [0]

    def begin(self: Updater, batches: Any, step: int) -> Any:
        calls[0] += 1
        handle = None
        if calls[0] == 2:
            weight = self.method.get_parameter("nodes.encoder.body.0.weight")
            handle = weight.register_hook(lambda gradient: gradient * math.inf)
        done = original(self, batches, step)
        if handle is not None:
            handle.remove()
        return done

    monkeypatch.setattr(Updater, "begin", begin)
    train(make_graph(), squares(), out=tmp_path / "run", console=screen.console)
    assert "step 2 skipped: the gradient of encoder.body.0.weight is not finite" in screen.text


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, make_graph: Any, squares: Any, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint.save
    steps: list[int] = []

    def save(folder: Path, step: int, *args: Any, **keywords: Any) -> Path:
        steps.append(step)
        if step == 4:
            raise WriteError("can't write 00000004: No space left on device")
        return original(folder, step, *args, **keywords)

    monkeypatch.setattr(checkpoint, "save", save)
    train(make_graph(), squares(), out=tmp_path / "run", console=screen.console)
    assert steps == [2, 4, 6]
    assert "No space left on device; the run goes on, the checkpoint before it stays" in screen.text
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["00000002", "00000006"]


def test_out_of_memory_says_what_to_set(
    tmp_path: Path, make_graph: Any, squares: Any, tap: Any
) -> None:
    first = first_training_call(tap, make_graph, squares, tmp_path)
    tap.bad = {first: torch.OutOfMemoryError("CUDA out of memory")}
    with pytest.raises(RunError, match=r"ran out of memory at a batch of 8: .*batch_size=4"):
        train(make_graph(), squares(labelled=False), out=tmp_path / "run")


def test_an_error_of_a_node_keeps_its_type_and_note(
    tmp_path: Path, make_graph: Any, squares: Any, tap: Any
) -> None:
    first = first_training_call(tap, make_graph, squares, tmp_path)
    tap.bad = {first: RuntimeError("shapes don't fit")}
    with pytest.raises(RuntimeError, match="shapes don't fit") as raised:
        train(make_graph(), squares(labelled=False), out=tmp_path / "run")
    assert "in node 'tap'" in raised.value.__notes__[0]


def test_a_changed_graph_is_not_resumed(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    out = tmp_path / "run"
    train(make_graph(), squares(), out=out, steps=2)
    graph = out / "graph.yaml"
    text = graph.read_text()
    graph.write_text(text + "# a comment is no change\n")
    resume(out, squares())
    graph.write_text(text.replace("out: 4", "out: 5"))
    with pytest.raises(RunError, match=r"graph\.yaml was changed since .* sslgraph run .*yaml$"):
        resume(out, squares())


def test_a_broken_graph_is_not_resumed(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    train(make_graph(), squares(), out=tmp_path / "run", steps=2)
    (tmp_path / "run" / "graph.yaml").write_text("nodes: [")
    with pytest.raises(RunError, match=r"(?s)was changed since.*graph\.yaml:1"):
        resume(tmp_path / "run", squares())


def test_a_reader_that_dies(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    class Deadly(squares):  # type: ignore[misc]
        def images(self, indexes: Any) -> Any:
            if torch.utils.data.get_worker_info() is not None:
                os._exit(1)
            return super().images(indexes)

    with pytest.raises(RunError, match=r"a process that reads images died after step 0.*--resume"):
        train(make_graph(), Deadly(labelled=False), out=tmp_path / "run", workers=1)


def test_metrics_that_can_not_be_written(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    train(make_graph(), squares(), out=tmp_path / "run", steps=2)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.unlink()
    metrics.mkdir()
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        resume(tmp_path / "run", squares())


def test_a_full_disk_before_the_first_step(
    tmp_path: Path, make_graph: Any, squares: Any, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise WriteError("can't write step_0000.png: No space left on device")

    monkeypatch.setattr("sslgraph.train.training.save_views", refuse)
    train(make_graph(), squares(), out=tmp_path / "run", steps=1, console=screen.console)
    assert "No space left on device; the run goes on without it" in screen.text


def test_the_checkpoint_of_another_run_is_refused(
    tmp_path: Path, make_graph: Any, squares: Any
) -> None:
    train(make_graph(), squares(), out=tmp_path / "one", steps=2)
    train(make_graph(momentum=0.5), squares(), out=tmp_path / "other", steps=4)
    taken = tmp_path / "one" / "checkpoints" / "00000004"
    (tmp_path / "other" / "checkpoints" / "00000004").rename(taken)
    with pytest.raises(RunError, match="00000004 belongs to another run: move it away"):
        resume(tmp_path / "one", squares())


def test_other_data_are_not_resumed(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    train(make_graph(), squares(), out=tmp_path / "run", steps=2)
    with pytest.raises(RunError, match="trained on 30 images and the data has 29 now"):
        resume(tmp_path / "run", squares(count=29))


def test_a_folder_in_use_is_not_resumed(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    train(make_graph(), squares(), out=tmp_path / "run", steps=2)
    status = {"state": "running", "pid": os.getppid(), "host": socket.gethostname()}
    (tmp_path / "run" / "status.json").write_text(json.dumps({**status, "time": time.time()}))
    with pytest.raises(RunError, match=f"is being trained by process {os.getppid()}"):
        resume(tmp_path / "run", squares())


def test_settings_that_lack_something(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    train(make_graph(), squares(), out=tmp_path / "run", steps=2)
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run\.json has no 'device'"):
        resume(tmp_path / "run", squares())


def test_too_little_data_leaves_no_folder(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    with pytest.raises(RunError, match=r"5 images, fewer than the 8"):
        train(make_graph(), squares(count=5), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_can_not_be_split(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    with pytest.raises(RunError, match="a batch of 8 can't be split into 3 equal parts"):
        train(make_graph(accumulate=3), squares(), out=tmp_path / "run")


def test_a_device_that_is_not_there(tmp_path: Path, make_graph: Any, squares: Any) -> None:
    with pytest.raises(RunError, match="can't use device 'cuda:77'"):
        train(make_graph(), squares(), out=tmp_path / "run", device="cuda:77")
    assert not (tmp_path / "run").exists()


def test_accumulation_is_the_mean_of_its_batches(
    tmp_path: Path, make_graph: Any, squares: Any
) -> None:
    """Two batches of four in one step: gradients are those of the mean of both losses."""
    train(make_graph(accumulate=2), squares(), out=tmp_path / "run", steps=1)
    state = state_of(tmp_path / "run", 1)
    assert state["position"] == 1
    assert int(state["method"]["clock.step"]) == 1
    moments = state["optimizer"]["encoder.body.0.weight"]["exp_avg"]
    assert torch.equal(moments, reference_gradient(make_graph(accumulate=2), squares()) * 0.1)


def reference_gradient(graph: Any, source: Any) -> Tensor:
    """The same step without the loop: seeds as documented, AdamW's first moment is 0.1 g."""
    import sslgraph
    from sslgraph.data.loader import Loader
    from sslgraph.hashing import mix, text_key

    method = sslgraph.compile(graph, seed=0)
    method.clock.set(total_steps=1, steps_per_epoch=3, accumulate=2)
    batches = Loader(source, batch_size=4, seed=0).batches()
    with torch.random.fork_rng(devices=[]):
        for number in range(2):
            torch.manual_seed(int(mix(0, text_key("model"), 0, number)) & (2**63 - 1))
            batch: Any = next(batches)
            (method(batch).loss / 2).backward()
    gradient = method.get_parameter("nodes.encoder.body.0.weight").grad
    assert gradient is not None
    return gradient
