"""What a run says at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sslgraph.command import command
from sslgraph.train.monitor import Quality
from sslgraph.train.progress import Reporter
from sslgraph.train.signals import EXIT_INTERRUPTED


@dataclass(frozen=True)
class Floors:
    """What a trained encoder has to beat, as kNN accuracy; None without labels.

    Args:
        untrained: The same encoder with its first weights.
        pixels: Raw pixels.
        chance: Guessing the largest class.
    """

    untrained: float | None = None
    pixels: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Args:
        folder: The run folder.
        step: Optimizer steps done.
        total_steps: Of the whole run.
        signal: Name of the signal that stopped it early, or ''.
        loss: Of the last step; NaN where none was done.
        quality: Of the features at the end, None where the graph has no output to measure.
        floors: What to compare with.
        backbone: The exported weights, None where there are none.
    """

    folder: Path
    step: int
    total_steps: int
    signal: str
    loss: float
    quality: Quality | None
    floors: Floors
    backbone: Path | None

    @property
    def exit_code(self) -> int:
        """0 at the end of the run, 75 where it was stopped and can be resumed."""
        return EXIT_INTERRUPTED if self.signal else 0


def tell_interrupted(reporter: Reporter, result: Result, saved_step: int | None) -> None:
    """Say where the run stopped and how to go on."""
    at = f"{result.signal}: stopped after step {result.step} of {result.total_steps}"
    if saved_step is None:
        reporter.warn(f"{at}; nothing could be saved")
        return
    reporter.line(f"{at}, saved step {saved_step}")
    reporter.line(f"go on   {command()} run --resume {result.folder}")


def tell_finished(
    reporter: Reporter, result: Result, *, unseen: bool, tests: int, target: str
) -> None:
    """Say what came out, where it is and what to try next.

    Args:
        reporter: Where to.
        result: The run.
        unseen: Whether training never saw the test images.
        tests: How many test images there were.
        target: The method as the user named it, for the commands.
    """
    if result.quality is not None:
        for line in quality_lines(result, unseen=unseen, tests=tests):
            reporter.line(line)
        if result.quality.collapsed:
            reporter.warn(
                f"the features have collapsed (std {result.quality.std:.2g}): "
                "they hardly tell images apart"
            )
    reporter.line(f"run     {result.folder}   (graph.yaml, metrics.jsonl, views, checkpoints)")
    if result.backbone is not None:
        reporter.line(f"weights {result.backbone}   (how to load: README.txt beside it)")
    for name, line in zip(("next", "", ""), _commands(target, result), strict=True):
        reporter.line(f"{name:7} {line}")


def quality_lines(result: Result, *, unseen: bool, tests: int) -> list[str]:
    """The table of kNN accuracies, or what is known without labels."""
    quality = result.quality
    assert quality is not None
    # A run that was at its end already did no step, so it has no loss to tell.
    loss = "no step was left, " if math.isnan(result.loss) else f"loss {result.loss:.4g}, "
    spread = f"{loss}feature std {quality.std:.3f}, RankMe {quality.rank:.0f} of {quality.width}"
    if quality.knn is None:
        return [f"done    {spread}", "        no labels, so no kNN"]
    which = "images never seen in training" if unseen else "training images, labels unused"
    floors = result.floors
    rows = [
        ("trained encoder", quality.knn),
        ("untrained encoder", floors.untrained),
        ("raw pixels", floors.pixels),
        ("chance", floors.chance),
    ]
    table = [f"          {name:18} {value:6.1%}" for name, value in rows if value is not None]
    return [
        f"done    {spread}",
        f"        kNN top-1 on {tests} {which}:",
        *table,
    ]


def _commands(target: str, result: Result) -> Sequence[str]:
    method = target.split(" --")[0]
    return (
        f"{command()} run {target} --steps {4 * result.total_steps}   longer",
        f"{command()} run {target} --data DIR   on a folder of images of your own",
        f"{command()} new my_method --from {method}   copy it and change a wire",
    )
