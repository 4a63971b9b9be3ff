"""The clock: counting, horizons, state."""

from __future__ import annotations

import pytest
import torch

from sslgraph.clock import Clock, Hand
from sslgraph.errors import GraphError, Span
from sslgraph.schedules import Schedule


def hand(**keywords: object) -> Hand:
    schedule = Schedule.model_validate(keywords)
    return Hand(schedule, torch.zeros(()), Span("x.yaml", 3, 5, 9, "  a: 1234"), "loss.weight")


def test_hands_are_filled_in_place() -> None:
    clock, moving = Clock(), hand(linear=[0, 8])
    number = moving.number
    clock.set(total_steps=4)
    seen = []
    for _ in range(6):
        clock.turn([moving])
        seen.append(number.item())
        clock.advance()
    assert seen == [0, 2, 4, 6, 8, 8]
    assert moving.number is number


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"linear": [0, 1]}, "total_steps"),
        ({"linear": [0, 1], "over": "3 epochs"}, "steps_per_epoch"),
        ({"linear": [0, 1], "from": "5%", "by": "epoch"}, "steps_per_epoch and total_steps"),
        ({"linear": [0, 1], "over": "3 steps"}, ""),
    ],
)
def test_what_a_schedule_has_to_know(keywords: dict[str, object], expected: str) -> None:
    clock, moving = Clock(), hand(**keywords)
    if not expected:
        clock.turn([moving])
        return
    with pytest.raises(GraphError) as caught:
        clock.turn([moving])
    (problem,) = caught.value.problems
    assert (problem.code, problem.expected) == ("E402", expected)
    assert problem.title == "loss.weight follows the run, but its length is not known"
    clock.set(total_steps=10, steps_per_epoch=2)
    clock.turn([moving])


def test_the_state_dict_has_the_time() -> None:
    clock, other = Clock(), Clock()
    clock.set(total_steps=9, steps_per_epoch=3)
    for _ in range(3):
        clock.advance()
        clock.positions(7, count_on=True)
    assert clock.epoch_ended
    other.load_state_dict(clock.state_dict())
    assert (other.now, other.seen) == (3, 21)
    assert other.positions(2, count_on=False).tolist() == [21, 22]
    assert other.total_steps is None  # a run says its length anew
