"""The training loop: batches, optimizer steps, and now and then metrics, kNN and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslgraph.data.loader import Loader
from sslgraph.files import WriteError
from sslgraph.saved import METHOD
from sslgraph.train import checkpoint
from sslgraph.train.chance import ChanceWatch
from sslgraph.train.failures import NonFiniteError, RunError
from sslgraph.train.metrics import MetricsLog
from sslgraph.train.monitor import Monitor, Quality
from sslgraph.train.optimizers import optimizer_state
from sslgraph.train.progress import Progress, Reporter, Speed
from sslgraph.train.run_folder import RunFolder
from sslgraph.train.signals import StopRequest
from sslgraph.train.step import Batch, Pass, Updater

_SKIPS = 2
_BEAT_SECONDS = 5.0
_SAVE_SECONDS = 120.0
_SAVE_STEPS = 50


@dataclass(frozen=True)
class Pace:
    """How many steps lie between things that happen now and then.

    Args:
        record: Lines of `metrics.jsonl`.
        read: Looks at the device for them; each one waits for it.
        evaluate: kNN and its like.
        save: Checkpoints; on top of these there is one every two minutes.
    """

    record: int
    read: int
    evaluate: int
    save: int

    @classmethod
    def of(cls, total_steps: int, device: torch.device) -> Pace:
        """For a run of some length: at most 10,000 lines, five evaluations, ten checkpoints."""
        return cls(
            record=-(-total_steps // 10_000),
            read=1 if device.type == "cpu" else 20,
            evaluate=-(-total_steps // 5),
            save=max(-(-total_steps // 10), _SAVE_STEPS),
        )


class Loop:
    """Trains until the end of the run or until a signal asks to stop.

    Args:
        updater: Does the steps.
        loader: Gives the batches; `accumulate` of them make a step.
        folder: Where metrics, heartbeat and checkpoints go.
        monitor: Measures the features, None to leave that out.
        reporter: Tells people.
        pace: How often what happens.
        facts: Noted in each checkpoint.
        state: What to start from, as `state` gave it; None at the beginning of a run.
    """

    def __init__(
        self,
        updater: Updater,
        loader: Loader,
        folder: RunFolder,
        monitor: Monitor | None,
        reporter: Reporter,
        pace: Pace,
        facts: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.updater, self.loader, self.folder = updater, loader, folder
        self.monitor, self.reporter, self.pace, self.facts = monitor, reporter, pace, facts
        self.total = updater.horizon.total_steps
        self.step = int(state["step"]) if state else 0
        self.position = int(state["position"]) if state else 0
        self.loss = float("nan")
        self.quality: Quality | None = None
        self._skipped = 0
        self._unread: list[tuple[int, Pass]] = []
        self._beaten = self._saved = time.monotonic()
        self._speed = Speed(updater.spec.batch_size)
        self._chance = ChanceWatch(updater.method)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, as tensors and plain values."""
        updater = self.updater
        return {
            "step": self.step,
            "position": self.position,
            METHOD: updater.method.state_dict(),
            "optimizer": optimizer_state(updater.optimizer, updater.groups),
        }

    def run(self) -> str:
        """Train.

        Returns:
            Nothing at the end of the run, else the name of the signal that asked to stop.

        Raises:
            NonFiniteError: Three steps in a row were not finite.
            DataError: The data can't be read any more.
            RunError: A process that reads images died, or the metrics can't be written.
        """
        self._chance.start(self.step)
        try:
            log = MetricsLog(self.folder.metrics, self.reporter.warn)
        except OSError as error:
            raise RunError(f"can't write {self.folder.metrics}: {error.strerror}") from error
        # What the global generators were is the caller's; training seeds them anew for each step.
        cuda = self.loader.device.type == "cuda"
        with (
            log,
            torch.random.fork_rng([self.loader.device] if cuda else []),
            StopRequest() as stop,
        ):
            try:
                self._train(log, stop)
            finally:
                self._read(log)
                self.reporter.close()
            self.save()
        return stop.name

    def save(self) -> bool:
        """Write a checkpoint; if the disk refuses, say so and go on.

        Returns:
            Whether it is on the disk.
        """
        self._saved = time.monotonic()
        try:
            checkpoint.save(self.folder.checkpoints, self.step, self.state(), self.facts)
        except WriteError as error:
            self.reporter.warn(f"{error}; the run goes on, the checkpoint before it stays")
            return False
        return True

    def _train(self, log: MetricsLog, stop: StopRequest) -> None:
        batches = self.loader.batches(self.position * self.updater.spec.accumulate)
        upcoming: Sequence[Batch] = ()
        while self.step < self.total and not stop.name:
            began, waited = time.perf_counter(), self.loader.waited
            current = upcoming or self._take(batches, stop)
            if not current:
                break
            done = self.updater.begin(current, self.step)
            # While an accelerator still works on this step, the next batch is made ready.
            upcoming = self._take(batches, stop) if self.step + 1 < self.total else ()
            fault = self.updater.finish(done)
            self.position += 1
            if fault:
                self._skip(fault, log)
                continue
            self._skipped = 0
            self.step += 1
            self._speed.add(time.perf_counter() - began, self.loader.waited - waited)
            self._after(done, log)

    def _take(self, batches: Iterator[Any], stop: StopRequest) -> list[Batch]:
        """The batches of a step; none where Ctrl-C also ended the processes that read them."""
        try:
            return [next(batches) for _ in range(self.updater.spec.accumulate)]
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            if stop.name:
                return []
            raise RunError(
                f"a process that reads images died after step {self.step}: is there memory for "
                f"{self.loader.workers} of them? Go on with fewer: set workers in "
                f"{self.folder.settings} and run --resume {self.folder}"
            ) from error

    def _skip(self, fault: str, log: MetricsLog) -> None:
        self._skipped += 1
        log.write({"step": self.step + 1, "skipped": fault})
        if self._skipped <= _SKIPS:
            self.reporter.warn(f"step {self.step + 1} skipped: {fault}; nothing was updated")
            return
        raise NonFiniteError(
            f"stopped at step {self.step + 1}: {fault}, and it was so {self._skipped} times in a "
            f"row. The weights are still those of step {self.step}. Try a lower learning rate "
            "(--set train.lr.peak=...), a longer warm-up (--set 'train.lr.warmup=10 epochs') or "
            "clipping (--set train.clip.norm=1)"
        )

    def _after(self, done: Pass, log: MetricsLog) -> None:
        """What follows a step that was taken; metrics come before the checkpoint after them."""
        last = self.step == self.total
        if self.step % self.pace.record == 0 or last:
            self._unread.append((self.step, done))
        if self.monitor and (self.step % self.pace.evaluate == 0 or last):
            self._read(log, show=False)
            self._evaluate(self.monitor, log, quick=not last)
        elif self.step % self.pace.read == 0:
            self._read(log)
        overdue = time.monotonic() - self._saved > _SAVE_SECONDS
        if not last and (self.step % self.pace.save == 0 or overdue):
            self._read(log)
            self.save()

    def _read(self, log: MetricsLog, *, show: bool = True) -> None:
        """Bring losses from the device, write them and show where the run is."""
        if not self._unread:
            return
        names = list(self._unread[0][1].terms)
        rows = [torch.stack([d.loss.float(), d.norm, *_ordered(d, names)]) for _, d in self._unread]
        for (step, done), row in zip(self._unread, torch.stack(rows).tolist(), strict=True):
            self.loss, norm, *terms = row
            by_name = dict(zip(names, terms, strict=True))
            log.write(
                {"step": step, "loss": self.loss, "lr": done.rate, "gradient_norm": norm}
                | {f"loss.{name}": value for name, value in by_name.items()}
            )
            self._chance.see(step, by_name)
        self._unread.clear()
        if show:
            self.reporter.show(self._progress())
        self._beat()

    def _evaluate(self, monitor: Monitor, log: MetricsLog, *, quick: bool) -> None:
        quality = self.quality = monitor.measure(self.updater.method, quick=quick)
        log.write(
            {
                "step": self.step,
                "knn": quality.knn,
                "feature_std": quality.std,
                "rank": quality.rank,
            }
        )
        self.reporter.show(self._progress(), keep=True)
        if quality.collapsed:
            self.reporter.warn(
                f"features are collapsing (std {quality.std:.2g}, RankMe {quality.rank:.1f} of "
                f"{quality.width}): is a stop_grad, predictor or negative missing?"
            )
        for sentence in self._chance.stuck(self.step, max(20, self.pace.evaluate)):
            self.reporter.warn(f"{sentence}: nothing is learnt so far; try another learning rate")

    def _progress(self) -> Progress:
        facts = {}
        if self.quality is not None:
            if self.quality.knn is not None:
                facts["kNN"] = f"{self.quality.knn:.1%}"
            facts["std"] = f"{self.quality.std:.3f}"
            facts["rank"] = f"{self.quality.rank:.0f}/{self.quality.width}"
        speed = self._speed
        left = speed.seconds_for(self.total - self.step)
        return Progress(
            self.step, self.total, self.loss, facts, speed.images_per_second, speed.data_wait, left
        )

    def _beat(self) -> None:
        if time.monotonic() - self._beaten < _BEAT_SECONDS:
            return
        self._beaten = time.monotonic()
        at = self._progress()
        self.folder.beat(
            "running",
            step=self.step,
            total_steps=self.total,
            images_per_second=at.images_per_second,
            data_wait=at.data_wait,
            seconds_left=at.seconds_left,
        )


def _ordered(done: Pass, names: Sequence[str]) -> list[Tensor]:
    return [done.terms[name].float() for name in names]
