"""The clock: where a run is, and every number that depends on it.

Schedules reach nodes as 0-d buffers that the clock fills in place, so a compiled step sees tensors
and never a Python number that changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sslgraph.errors import GraphError, Problem, Span
from sslgraph.nodes.ranks import rank, world_size
from sslgraph.plan import Step
from sslgraph.schedules import Schedule


@dataclass
class Hand:
    """One number that follows the run.

    Args:
        schedule: How it moves.
        number: The 0-d tensor that holds it.
        span: Where the schedule was written.
        place: What users call it, such as ``loss.temperature``.
    """

    schedule: Schedule
    number: Tensor
    span: Span
    place: str


class Clock(nn.Module):
    """Counts optimizer steps and samples; part of the state dict."""

    step: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))
        self.total_steps: int | None = None
        self.steps_per_epoch: int | None = None
        self.accumulate = 1
        # Plain copies: reading a tensor would wait for the device.
        self.now = 0
        self.seen = 0

    def set(
        self,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        accumulate: int = 1,
    ) -> None:
        """Say how long the run is.

        Args:
            total_steps: Optimizer steps of the whole run.
            steps_per_epoch: Optimizer steps of one pass over the data.
            accumulate: Forward batches an optimizer step.

        Raises:
            ValueError: A number is not positive.
        """
        given = {
            "total_steps": total_steps,
            "steps_per_epoch": steps_per_epoch,
            "accumulate": accumulate,
        }
        for name, value in given.items():
            if value is not None and value < 1:
                raise ValueError(f"clock.set({name}={value}): a run has at least 1")
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.accumulate = accumulate

    def missing(self, hand: Hand) -> Problem | None:
        """What a schedule needs to know of the run and does not."""
        known = {"total_steps": self.total_steps, "steps_per_epoch": self.steps_per_epoch}
        lacking = sorted(need for need in hand.schedule.needs() if known[need] is None)
        return _lacking(hand.place, hand.span, lacking) if lacking else None

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return self.steps_per_epoch is not None and self.now % self.steps_per_epoch == 0

    def turn(self, hands: list[Hand], by_epoch: Sequence[Step] = ()) -> None:
        """Fill every number for the current step.

        Args:
            hands: The numbers.
            by_epoch: Nodes that write once an epoch.

        Raises:
            GraphError: A number or a node needs a length of the run that was not given.
        """
        missing = [problem for hand in hands if (problem := self.missing(hand))]
        if self.steps_per_epoch is None:
            missing += [_lacking(step.name, step.span, ["steps_per_epoch"]) for step in by_epoch]
        if missing:
            raise GraphError(tuple(missing))
        for hand in hands:
            value = hand.schedule.value(self.now, self.total_steps, self.steps_per_epoch)
            hand.number.fill_(value)

    def advance(self) -> None:
        """One optimizer step was taken."""
        self.now += 1
        self.step.fill_(self.now)

    def positions(self, count: int, *, count_on: bool) -> Tensor:
        """The positions of the next `count` samples, for data that brings none.

        With several processes each has a stretch of its own, so that no two samples draw alike.

        Args:
            count: Number of samples in this process.
            count_on: Whether these samples are used up, as in a training forward.
        """
        first = self.seen + rank() * count
        if count_on:
            self.seen += world_size() * count
            self.samples.fill_(self.seen)
        return torch.arange(first, first + count)

    def _load_from_state_dict(self, *args: object, **keywords: object) -> None:
        super()._load_from_state_dict(*args, **keywords)
        self.now, self.seen = int(self.step), int(self.samples)


def _lacking(place: str, span: Span, lacking: Sequence[str]) -> Problem:
    call = ", ".join(f"{name}=..." for name in lacking)
    length = "the length of an epoch" if lacking == ["steps_per_epoch"] else "its length"
    return Problem(
        "E402",
        f"{place} follows the run, but {length} is not known",
        span,
        expected=" and ".join(lacking),
        help=f"call method.clock.set({call}) before training",
    )
