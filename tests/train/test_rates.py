"""Learning rates at steps where the value is known by hand."""

from __future__ import annotations

import math

import pytest

from sslgraph.schedules import Schedule, Time
from sslgraph.train.rates import Horizon, largest_batch, learning_rate, number_at
from sslgraph.train_spec import Drops, LearningRate, TrainSpec

RUN = Horizon(total_steps=110, steps_per_epoch=10)
WARM = Time(10, "steps")


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (5, 0.5), (10, 1.0), (35, 0.5 + math.sqrt(2) / 4), (60, 0.5), (110, 0.0)],
)
def test_warmup_then_cosine(step: int, expected: float) -> None:
    rule = LearningRate(peak=1.0, warmup=WARM)
    assert learning_rate(rule, 256, step, RUN) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.2), (5, 0.6), (60, 0.55), (110, 0.1)])
def test_start_and_end(step: int, expected: float) -> None:
    rule = LearningRate(peak=1.0, start=0.2, end=0.1, warmup=WARM)
    assert learning_rate(rule, 256, step, RUN) == pytest.approx(expected)


def test_constant() -> None:
    rule = LearningRate(peak=0.3, warmup=WARM, shape="constant")
    assert [learning_rate(rule, 256, step, RUN) for step in (10, 60, 109)] == [0.3] * 3


@pytest.mark.parametrize(
    ("step", "expected"),
    # half a cosine from step 10 to 1.25 x 1000 = 1250, of which the run sees the first 1000 steps
    [(5, 0.5), (10, 1.0), (630, 0.55), (940, 0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2)],
)
def test_a_cosine_longer_than_the_run(step: int, expected: float) -> None:
    rule = LearningRate(peak=1.0, end=0.1, warmup=WARM, over=Time(125, "percent"))
    found = learning_rate(rule, 256, step, Horizon(total_steps=1000, steps_per_epoch=10))
    assert found == pytest.approx(expected, abs=1e-7)


def test_a_cosine_shorter_than_the_run_stays_at_its_end() -> None:
    rule = LearningRate(peak=1.0, end=0.1, over=Time(5, "epochs"))
    found = [learning_rate(rule, 256, step, RUN) for step in (0, 25, 50, 109)]
    assert found == pytest.approx([1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(
    ("step", "expected"), [(5, 1.0), (19, 2.0), (20, 0.4), (87, 0.4), (88, 0.08), (109, 0.08)]
)
def test_drops(step: int, expected: float) -> None:
    drops = Drops(times=0.2, at=(Time(2, "epochs"), Time(80, "percent")))
    rule = LearningRate(peak=2.0, warmup=WARM, shape=drops)
    assert learning_rate(rule, 256, step, RUN) == pytest.approx(expected)


def test_by_epoch_holds_the_value_of_the_first_step() -> None:
    by_epoch, by_step = LearningRate(peak=1.0, by="epoch"), LearningRate(peak=1.0)
    values = [learning_rate(by_epoch, 256, step, RUN) for step in range(20, 30)]
    assert set(values) == {learning_rate(by_step, 256, 20, RUN)}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (LearningRate(base=0.3, per=256), 0.3 * 16),
        (LearningRate(base=0.3, per="sqrt 1"), 0.3 * 64),
        (LearningRate(base=2e-4, per="sqrt 1024"), 2e-4 * 2),
        (LearningRate(peak=0.3), 0.3),
    ],
)
def test_scaling_with_a_batch_of_4096(rule: LearningRate, expected: float) -> None:
    assert learning_rate(rule, 4096, 0, RUN) == pytest.approx(expected)


def test_warmup_in_epochs_and_percent() -> None:
    for time in (Time(2, "epochs"), Time(100 * 20 / 110, "percent")):
        rule = LearningRate(peak=1.0, warmup=time)
        assert learning_rate(rule, 256, 5, RUN) == pytest.approx(0.25)


def test_weight_decay_may_move() -> None:
    assert number_at(0.1, 7, RUN) == 0.1
    assert number_at(Schedule(cosine=(0.04, 0.4)), 55, RUN) == pytest.approx(0.22)


def test_horizon_counts_whole_batches() -> None:
    # ImageNet, 100 epochs at 4096: 312 whole batches an epoch
    horizon = Horizon.of(TrainSpec(epochs=100, batch_size=4096), 1281167)
    assert horizon == Horizon(31200, 312)


def test_horizon_of_steps_a_named_epoch_and_an_override() -> None:
    assert Horizon.of(TrainSpec(steps=70, batch_size=8), 100) == Horizon(70, 12)
    spec = TrainSpec(epochs=3, epoch=Time(1250, "steps"), batch_size=8)
    assert Horizon.of(spec, 100) == Horizon(3750, 1250)
    assert Horizon.of(spec, 100, steps=5) == Horizon(5, 1250)


def test_too_little_data_says_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"100 images.*256.*train\.batch_size=64"):
        Horizon.of(TrainSpec(batch_size=256), 100)
    assert [largest_batch(n) for n in (0, 1, 2, 3, 100, 128)] == [1, 1, 2, 2, 64, 128]


# The released code of DINO takes its warm-up from a line that has both ends, `peak` one step early;
# ours has `start` at step 0 and `peak` at the step after the warm-up, so values differ by at most
# peak / (W - 1) there. The half cosine is the same at every step, and so are weight decay and
# momentum, which have no warm-up: `end` belongs to the step after the last one.
DINO = Horizon(total_steps=1000, steps_per_epoch=10)
DINO_RATE = LearningRate(peak=5e-4, warmup=Time(10, "epochs"), end=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"), [(100, 5e-4), (550, 2.505e-4), (999, 1.00152e-6), (1000, 1e-6)]
)
def test_the_rate_of_dino_after_its_warmup(step: int, expected: float) -> None:
    assert learning_rate(DINO_RATE, 256, step, DINO) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "ours", "released"),
    [(0, 0.0, 0.0), (1, 5e-6, 5.0505e-6), (50, 2.5e-4, 2.52525e-4), (99, 4.95e-4, 5e-4)],
)
def test_the_warmup_of_dino_reaches_its_peak_a_step_later(
    step: int, ours: float, released: float
) -> None:
    found = learning_rate(DINO_RATE, 256, step, DINO)
    assert found == pytest.approx(ours)
    assert found * 100 / 99 == pytest.approx(released, rel=1e-5)


def test_dino_scales_its_rate_with_the_batch() -> None:
    assert LearningRate(base=5e-4).scaled(1024) == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("ends", "step", "expected"),
    [
        ((0.04, 0.4), 250, 0.0927208),
        ((0.04, 0.4), 500, 0.22),
        ((0.04, 0.4), 999, 0.3999991),
        ((0.996, 1.0), 250, 0.9965858),
        ((0.996, 1.0), 500, 0.998),
        ((0.996, 1.0), 999, 0.99999999),
    ],
)
def test_cosines_of_dino(ends: tuple[float, float], step: int, expected: float) -> None:
    assert number_at(Schedule(cosine=ends), step, DINO) == pytest.approx(expected, abs=5e-8)
