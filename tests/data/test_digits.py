from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import torch

from sslgraph.data import RUNGS, Clutter, DataError, EmbeddedDigits, Source
from sslgraph.data.clutter import render
from sslgraph.data.digits import optdigits, split_ids
from sslgraph.evaluate import knn_accuracy
from sslgraph.evaluate.knn import Metric


def features(digits: EmbeddedDigits) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = digits.images(range(len(digits))).flatten(1).float() / 255
    return pixels, torch.tensor([digits.label(index) for index in range(len(digits))])


def test_the_file_is_the_published_data() -> None:
    ink, labels = optdigits()
    assert ink.shape == (1797, 8, 8)
    # Counts by class as the data set's own documentation gives them, and its first record.
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    first = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0]
    assert (ink[0].flatten()[:24] * 16).tolist() == first
    assert labels[0] == 0


def test_the_file_is_small_and_carries_its_licence() -> None:
    folder = files("sslgraph.data")
    assert len((folder / "digits.npz").read_bytes()) < 60_000
    text = (folder / "digits.LICENSE.txt").read_text()
    assert "CC BY 4.0" in text
    assert "Alpaydin" in text


def test_split_is_by_digit_and_stratified() -> None:
    train, test = split_ids("train"), split_ids("test")
    assert (len(train), len(test)) == (1252, 545)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1797))
    counts = optdigits()[1][test].bincount()
    assert counts.min() >= 53
    assert counts.max() <= 55


def test_lengths_classes_and_names() -> None:
    train, test = EmbeddedDigits("train"), EmbeddedDigits("test")
    assert (len(train), len(test)) == (7512, 1090)
    assert isinstance(train, Source)
    assert train.classes == tuple("0123456789")
    assert test.uri(545) == f"optdigits/{split_ids('test')[0]}#1"
    assert test.label(545) == test.label(0) == optdigits()[1][split_ids("test")[0]]
    assert not set(map(train.uri, range(len(train)))) & set(map(test.uri, range(len(test))))


@pytest.mark.parametrize("rung", ["D10", "E"])
def test_same_pixels_alone_in_any_batch_and_in_any_order(rung: str) -> None:
    def fresh() -> EmbeddedDigits:
        return EmbeddedDigits("train", clutter=RUNGS[rung])

    together = fresh().images(range(150))
    alone = fresh()
    assert all(alone.images([i])[0].equal(together[i]) for i in range(0, 150, 7))
    backwards = fresh().images(range(149, -1, -1)).flip(0)
    assert backwards.equal(together)
    again = fresh()
    again.images(range(5, 60, 3))
    assert again.images(range(150)).equal(together)


def test_threads_do_not_matter() -> None:
    before = torch.get_num_threads()
    pictures = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pictures.append(EmbeddedDigits("test").images(range(64)))
    torch.set_num_threads(before)
    assert pictures[0].equal(pictures[1])


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    EmbeddedDigits("test").images(range(10))
    assert torch.get_rng_state().equal(before)


def test_seed_and_view_change_the_picture_but_not_the_digit() -> None:
    test = EmbeddedDigits("test")
    assert not test.images([0]).equal(test.images([545]))
    other = EmbeddedDigits("test", seed=1)
    assert not test.images([0]).equal(other.images([0]))
    assert test.label(0) == other.label(0)


def test_fragments_come_from_the_same_split() -> None:
    ids = split_ids("test")
    views = torch.zeros(20, dtype=torch.int64)
    drawn = render(optdigits()[0], ids[:20], views, seed=0, canvas=32, clutter=RUNGS["D"], pool=ids)
    assert EmbeddedDigits("test").images(range(20)).equal(drawn)


def test_plain_rung_is_a_bilinear_enlargement() -> None:
    canvas, size = 40, 0.65
    test = EmbeddedDigits("test", canvas=canvas, clutter=RUNGS["A"])
    glyph = np.pad(optdigits()[0][split_ids("test")[3]].numpy(), 1)
    expected = np.zeros((canvas, canvas))
    for row in range(canvas):
        for column in range(canvas):
            # From pixel middles to glyph coordinates; the padding puts pixel 0's middle at 1.
            y, x = (((at + 0.5) / canvas - 0.5) / size * 8 + 4.5 for at in (row, column))
            if 0 < y < 9 and 0 < x < 9:
                i, j = int(y), int(x)
                near = glyph[i : i + 2, j : j + 2]
                expected[row, column] = [1 - y + i, y - i] @ near @ [1 - x + j, x - j]
    got = test.images([3])[0].numpy().astype(float)
    for channel in got:
        np.testing.assert_allclose(channel, expected * 255, atol=0.51)


def test_rungs_add_to_each_other() -> None:
    """A rung shares place, size and turn with the one before, so only the nuisance differs."""
    plain = EmbeddedDigits("test", clutter=RUNGS["B"]).images(range(30))
    more = RUNGS["B"].model_copy(update={"fragments": 6})
    cluttered = EmbeddedDigits("test", clutter=more).images(range(30))
    assert (cluttered >= plain).all()
    assert (cluttered > plain).flatten(1).any(1).all()


def test_fragments_keep_off_the_digit() -> None:
    # Digits small enough that eight tries find a place for every fragment.
    alone = Clutter(
        size=(0.4, 0.65), place=False, color=False, gradient=False, noise=0, fragments=0
    )
    crowd = alone.model_copy(update={"fragments": 8})
    ids = torch.arange(100)
    a, b = (EmbeddedDigits("test", canvas=64, clutter=c).images(range(100)) for c in (alone, crowd))
    # A fragment reaches at most 0.49 of the digit's size from its middle, which is 0.7 away.
    middle = slice(32 - 5, 32 + 5)
    assert a[ids, :, middle, middle].equal(b[ids, :, middle, middle])
    near = crowd.model_copy(update={"keep_out": 0})
    c = EmbeddedDigits("test", canvas=64, clutter=near).images(range(100))
    assert not a[ids, :, middle, middle].equal(c[ids, :, middle, middle])


def test_ink_and_ground_differ_in_brightness() -> None:
    flat = EmbeddedDigits("test", clutter=RUNGS["E"]).images(range(200)).float()
    gray = (flat * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    ground = gray[:, 0, 0]
    contrast = (gray - ground[:, None, None]).flatten(1).abs().amax(1)
    assert contrast.min() > 40
    assert 0.35 < (ground > 127).float().mean() < 0.65


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [1, 20])
def test_raw_pixels_fail_on_the_default_and_not_on_plain_digits(metric: Metric, k: int) -> None:
    accuracy = {}
    for rung, renders in (("A", 1), ("D", None)):
        train = EmbeddedDigits("train", clutter=RUNGS[rung], renders=renders)
        test = EmbeddedDigits("test", clutter=RUNGS[rung])
        accuracy[rung] = knn_accuracy(*features(train), *features(test), k=k, metric=metric)
    assert accuracy["A"] > 0.95
    assert accuracy["D"] < 0.20


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"split": "val"}, "no split 'val' in the embedded digits; there are: train, test"),
        ({"canvas": 7}, "canvas 7 is too small for digits of 8 x 8 pixels; from 8"),
        ({"renders": 0}, "renders is at least 1, got 0"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, object], text: str) -> None:
    with pytest.raises(DataError) as caught:
        EmbeddedDigits(**settings)  # type: ignore[arg-type]
    assert str(caught.value) == text
