"""The clock: counting, horizons, state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sslgraph.clock import Clock, Hand
from sslgraph.errors import GraphError, Span
from sslgraph.loading import load
from sslgraph.method import compile_graph
from sslgraph.schedules import Schedule
from tests.toys import images


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
    length = "the length of an epoch" if expected == "steps_per_epoch" else "its length"
    assert problem.title == f"loss.weight follows the run, but {length} is not known"
    clock.set(total_steps=10, steps_per_epoch=2)
    clock.turn([moving])


def test_a_teacher_without_a_horizon_names_its_lines(tmp_path: Path) -> None:
    """As a script meets it that forgot the clock: each schedule with its line, all at once."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "sslgraph: 1\n"
        "nodes:\n"
        "  views: {use: toy_noise, in: batch.image}\n"
        "  encoder: {use: toy_pixels, in: views}\n"
        "  scores: {use: prototypes, in: encoder, count: 4}\n"
        "  teacher:\n"
        "    use: ema\n"
        "    of: [encoder, scores]\n"
        "    in: views\n"
        "    momentum: {cosine: [0.99, 1]}\n"
        "  center: {use: center, in: teacher}\n"
        "  target: {use: sharpen, in: center, temperature: {linear: [0.04, 0.07], "
        "over: 3 epochs}}\n"
        "  loss: {use: soft_cross_entropy, in: {prediction: scores, target: target}}\n"
        "minimize: {loss: 1}\n",
        encoding="utf-8",
    )
    method = compile_graph(load(file))
    with pytest.raises(GraphError) as caught:
        method({"image": images()})
    assert str(caught.value) == (
        f"{file}:10:15: error[E402]: teacher.momentum follows the run, "
        "but its length is not known\n"
        "   |\n"
        "10 |     momentum: {cosine: [0.99, 1]}\n"
        "   |               ^^^^^^^^^^^^^^^^^^^\n"
        "   = expected: total_steps\n"
        "   = help: call method.clock.set(total_steps=...) before training\n"
        "\n"
        f"{file}:12:51: error[E402]: target.temperature follows the run, "
        "but the length of an epoch is not known\n"
        "   |\n"
        "12 |   target: {use: sharpen, in: center, temperature: "
        "{linear: [0.04, 0.07], over: 3 epochs}}\n"
        "   |                                                   "
        "^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "   = expected: steps_per_epoch\n"
        "   = help: call method.clock.set(steps_per_epoch=...) before training"
    )
    method.clock.set(total_steps=9, steps_per_epoch=3)
    assert method({"image": images()}).loss.isfinite()


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
