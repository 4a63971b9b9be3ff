"""What a run shows while it goes on: one live line on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

_SECONDS = 10.0
_PARTS = 10
_REFRESH = 0.1


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Args:
        step: Optimizer steps done.
        total: Of the whole run.
        loss: Of the last step that was read.
        facts: Further words by name, such as kNN.
        images_per_second: Recent speed, None before it is known.
        data_wait: Share of the time spent waiting for data.
        seconds_left: Estimate, None before it is known.
    """

    step: int
    total: int
    loss: float
    facts: Mapping[str, str] = field(default_factory=dict)
    images_per_second: float | None = None
    data_wait: float = 0.0
    seconds_left: float | None = None

    def __str__(self) -> str:
        width = len(str(self.total))
        parts = [f"step {self.step:>{width}}/{self.total} {self.step / self.total:4.0%}"]
        parts.append(f"loss {self.loss:.4g}")
        parts += [f"{name} {value}" for name, value in self.facts.items()]
        if self.images_per_second is not None:
            parts.append(f"{short(self.images_per_second)} img/s")
            parts.append(f"data wait {self.data_wait:.0%}")
        if self.seconds_left is not None and self.step < self.total:
            parts.append(f"{clock(self.seconds_left)} left")
        return "   ".join(parts)


class Reporter:
    """Writes for people; never reads markup in what it is given.

    Args:
        console: Where to; standard error by default. Without a terminal it gets plain lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._last = (-_SECONDS, -1)
        self._drawn = -_REFRESH

    def line(self, text: str = "", style: str = "") -> None:
        """One line that stays."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that asks for attention."""
        self.line(f"warning: {text}", style="yellow")

    def show(self, progress: Progress, *, keep: bool = False) -> None:
        """The state of the run: on a terminal in place, else a line every 10 s or 10 %.

        Args:
            progress: The state.
            keep: Let the line stay in any case.
        """
        if self.console.is_terminal and not keep:
            if time.monotonic() - self._drawn >= _REFRESH or progress.step == progress.total:
                self._in_place(f"train   {progress}")
                self._drawn = time.monotonic()
        elif keep or self._due(progress):
            self._last = (time.monotonic(), progress.step * _PARTS // progress.total)
            self.line(f"train   {progress}")

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _in_place(self, text: str) -> None:
        shown = Text(text, no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self._live = Live(shown, console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(shown, refresh=True)

    def _due(self, progress: Progress) -> bool:
        seconds, part = self._last
        return (
            time.monotonic() - seconds >= _SECONDS
            or progress.step * _PARTS // progress.total > part
        )


class Speed:
    """Images a second and the share of waiting, over the recent past.

    Args:
        images: Images of a step.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._steps = 0
        self._working = self._waiting = 0.0
        self._seconds_a_step: float | None = None
        self.data_wait = 0.0

    def add(self, working: float, waiting: float) -> None:
        """Count a step that took so many seconds, so many of them waiting for data."""
        self._steps += 1
        self._working += working
        self._waiting += waiting
        if self._steps >= 5 or self._working >= 2.0:
            now = self._working / self._steps
            before = self._seconds_a_step
            self._seconds_a_step = now if before is None else 0.7 * before + 0.3 * now
            self.data_wait = self._waiting / max(self._working, 1e-9)
            self._steps, self._working, self._waiting = 0, 0.0, 0.0

    @property
    def images_per_second(self) -> float | None:
        """None until a few steps are counted."""
        return self._images / self._seconds_a_step if self._seconds_a_step else None

    def seconds_for(self, steps: int) -> float | None:
        """How long so many steps will take."""
        return None if self._seconds_a_step is None else steps * self._seconds_a_step


def clock(seconds: float) -> str:
    """Seconds as `0:38`, `12:05` or `3:04:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short(number: float) -> str:
    """A speed in three digits: `85`, `1.2k`, `13k`."""
    if number < 1000:
        return f"{number:.0f}" if number >= 10 else f"{number:.1f}"
    return f"{number / 1000:.1f}k" if number < 9950 else f"{number / 1000:.0f}k"
