from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor

from sslgraph.data import BadFile, Batch, DataError, EmbeddedDigits, Loader, Source, in_order
from sslgraph.data.loader import permutation

# Python from 3.12 on warns of every fork of a process with threads, which torch always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Numbered:
    """Image n is filled with n; the listed ones are unreadable and replaced by image 0."""

    classes: Sequence[str] = ("even", "odd")

    def __init__(self, count: int, bad: Sequence[int] = (), fails: bool = False) -> None:
        self.count = count
        self.broken = bad
        self.fails = fails
        self.bad: list[BadFile] = []

    def __len__(self) -> int:
        return self.count

    def images(self, indexes: Sequence[int]) -> Tensor:
        if self.fails:
            raise DataError("all of them are bad")
        for index in indexes:
            file = BadFile(str(index), "broken")
            if index in self.broken and file not in self.bad:
                self.bad.append(file)
        values = [0 if index in self.broken else index for index in indexes]
        return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)

    def label(self, index: int) -> int | None:
        return index % 2 if index else None

    def uri(self, index: int) -> str:
        return str(index)


def take(loader: Loader, steps: int, start: int = 0) -> list[Batch]:
    return list(islice(loader.batches(start), steps))


def shown(batches: list[Batch]) -> list[list[int]]:
    return [batch["image"][:, 0, 0, 0].tolist() for batch in batches]


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        a[key].equal(b[key]) for a, b in pairs for key in ("image", "index", "sample", "label")
    )


def test_numbered_is_a_source() -> None:
    assert isinstance(Numbered(3), Source)


def test_batches_hold_images_positions_and_labels() -> None:
    loader = Loader(Numbered(20), batch_size=8, seed=3)
    assert loader.steps_per_epoch == 2
    first, second = take(loader, 2)
    assert first["image"].dtype == torch.uint8
    assert first["image"].shape == (8, 3, 2, 2)
    assert second["index"].tolist() == list(range(8, 16))
    for image, label in zip(first["image"][:, 0, 0, 0], first["label"], strict=True):
        assert label == (image % 2 if image else -1)
    assert first["sample"].tolist() == shown([first])[0]


def test_an_epoch_shows_each_image_at_most_once_and_all_in_turn() -> None:
    loader = Loader(Numbered(20), batch_size=8, seed=3)
    seen = shown(take(loader, 20))
    epochs = [[*a, *b] for a, b in zip(seen[::2], seen[1::2], strict=True)]
    assert all(len(set(epoch)) == 16 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    assert set().union(*epochs) == set(range(20))


def test_order_is_that_of_the_positions() -> None:
    """The definition, position by position."""
    seen = shown(take(Loader(Numbered(20), batch_size=8, seed=3), 6))
    for step, images in enumerate(seen):
        for k, image in enumerate(images):
            epoch, place = divmod(step * 8 + k, 16)
            assert image == permutation(3, epoch, 20)[place]


@pytest.mark.parametrize("start", [1, 2, 5])
def test_resumes_at_any_step(start: int) -> None:
    straight = take(Loader(Numbered(20), batch_size=8, seed=3), 8)
    resumed = take(Loader(Numbered(20), batch_size=8, seed=3), 8 - start, start)
    assert same(straight[start:], resumed)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(workers: int) -> None:
    here = Loader(Numbered(20), batch_size=8, seed=3)
    there = Loader(Numbered(20), batch_size=8, seed=3, workers=workers)
    assert same(take(here, 7, 3), take(there, 7, 3))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_divide_each_batch_in_order(world: int) -> None:
    whole = take(Loader(Numbered(20), batch_size=8, seed=3), 5)
    shares = [
        take(Loader(Numbered(20), batch_size=8, seed=3, rank=rank, world=world), 5)
        for rank in range(world)
    ]
    for step, batch in enumerate(whole):
        for key in ("image", "index", "sample", "label"):
            joined = torch.cat([share[step][key] for share in shares])
            assert joined.equal(batch[key])


def test_seeds_differ() -> None:
    a, b = (shown(take(Loader(Numbered(20), batch_size=8, seed=seed), 2)) for seed in (1, 2))
    assert a != b


def test_permutation_is_uniform() -> None:
    """Each image is first equally often: chi-square, 1 % point for 9 degrees of freedom."""
    first = torch.stack([permutation(0, epoch, 10)[0] for epoch in range(2000)]).bincount()
    assert first.sum() == 2000
    assert ((first - 200) ** 2 / 200).sum() < 21.7
    assert permutation(5, 1, 1000).sort().values.equal(torch.arange(1000))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_named_once_in_this_process(workers: int) -> None:
    named: list[BadFile] = []
    source = Numbered(20, bad=(4, 7))
    loader = Loader(source, batch_size=8, seed=3, workers=workers, on_bad=named.append)
    take(loader, 12)
    assert sorted(named) == [BadFile("4", "broken"), BadFile("7", "broken")]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_error_keeps_its_one_line(workers: int) -> None:
    loader = Loader(Numbered(20, fails=True), batch_size=8, seed=3, workers=workers)
    with pytest.raises(DataError) as caught:
        take(loader, 1)
    assert str(caught.value) == "all of them are bad"


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generator_is_left_alone(workers: int) -> None:
    before = torch.get_rng_state()
    take(Loader(Numbered(20), batch_size=8, seed=3, workers=workers), 3)
    assert torch.get_rng_state().equal(before)


def test_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that the test moves: reading takes 2 s, the step 50 s."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow(Numbered):
        def images(self, indexes: Sequence[int]) -> Tensor:
            now[0] += 2
            return super().images(indexes)

    loader = Loader(Slow(20), batch_size=8, seed=3)
    for _ in islice(loader.batches(), 3):
        now[0] += 50
    assert loader.waited == 6


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"batch_size": 32},
            "20 images are fewer than one batch of 32; add images or set batch_size to 20 or less",
        ),
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
        ({"batch_size": 8, "world": 3}, "a batch of 8 can't be divided among 3 ranks"),
        ({"batch_size": 8, "world": 2, "rank": 2}, "rank 2 is not one of 2"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, int], text: str) -> None:
    with pytest.raises(DataError) as caught:
        Loader(Numbered(20), seed=0, **settings)  # type: ignore[arg-type]
    assert str(caught.value) == text


def test_in_order_gives_every_image_once() -> None:
    batches: Iterator[Batch] = in_order(Numbered(20), batch_size=8)
    listed = list(batches)
    assert [len(batch["image"]) for batch in listed] == [8, 8, 4]
    assert torch.cat([batch["index"] for batch in listed]).tolist() == list(range(20))
    assert [value for part in shown(listed) for value in part] == list(range(20))
    assert torch.cat([batch["sample"] for batch in listed]).tolist() == list(range(20))


def test_embedded_digits_through_workers() -> None:
    here = Loader(EmbeddedDigits("test"), batch_size=64, seed=0)
    there = Loader(EmbeddedDigits("test"), batch_size=64, seed=0, workers=2)
    assert same(take(here, 3, 16), take(there, 3, 16))
