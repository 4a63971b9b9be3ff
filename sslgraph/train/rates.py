"""Learning rate and weight decay at each optimizer step, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sslgraph.schedules import Number, Schedule, Time
from sslgraph.train_spec import Drops, LearningRate, TrainSpec


@dataclass(frozen=True)
class Horizon:
    """How long a run and its epochs are.

    Args:
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of one epoch.
    """

    total_steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, spec: TrainSpec, samples: int, steps: int | None = None) -> Horizon:
        """The horizon of a run on some number of samples.

        Args:
            spec: The run's settings.
            samples: Images of the training set.
            steps: Length that replaces the one of the settings.

        Raises:
            ValueError: There are fewer samples than one step takes.
        """
        per_epoch = samples // spec.batch_size
        if per_epoch < 1:
            raise ValueError(
                f"the data has {samples} images, fewer than the {spec.batch_size} of one step: "
                f"lower it with --set train.batch_size={largest_batch(samples)}"
            )
        if spec.epoch is not None:
            per_epoch = max(1, round(spec.epoch.value))
        total = steps or max(1, round(spec.length.steps(None, per_epoch)))
        return cls(total, per_epoch)


def largest_batch(samples: int) -> int:
    """The largest power of two that is at most `samples`, and at least 1."""
    return 1 << (max(samples, 1).bit_length() - 1)


def number_at(number: Number, step: int, horizon: Horizon) -> float:
    """A number or schedule at an optimizer step (0 is the first)."""
    if isinstance(number, Schedule):
        return number.value(step, horizon.total_steps, horizon.steps_per_epoch)
    return number


def learning_rate(spec: LearningRate, batch_size: int, step: int, horizon: Horizon) -> float:
    """The learning rate of an optimizer step.

    It grows along a line from `start` at step 0 to the peak at step W, the end of the warm-up,
    then moves along half a cosine to `end` at step `over` (one after the last, if absent), stays,
    or is multiplied by a factor at each of some times. A cosine over more than the run is cut off
    where the run ends. With `by: epoch` it has through an epoch the value of its first step.

    Args:
        spec: The rule.
        batch_size: Samples of an optimizer step, over all processes.
        step: Optimizer steps done so far.
        horizon: Length of the run and of its epochs.
    """
    peak = spec.scaled(batch_size)
    if spec.by == "epoch":
        step = step // horizon.steps_per_epoch * horizon.steps_per_epoch
    warmup = _steps(spec.warmup, horizon)
    if step < warmup:
        return spec.start + (peak - spec.start) * step / warmup
    if isinstance(spec.shape, Drops):
        return peak * spec.shape.times ** sum(step >= _steps(at, horizon) for at in spec.shape.at)
    if spec.shape == "constant":
        return peak
    whole = horizon.total_steps if spec.over is None else _steps(spec.over, horizon)
    done = min((step - warmup) / max(whole - warmup, 1), 1.0)
    return spec.end + (peak - spec.end) * (1 + math.cos(math.pi * done)) / 2


def _steps(time: Time, horizon: Horizon) -> float:
    return time.steps(horizon.total_steps, horizon.steps_per_epoch)
