"""Batches by position: what a step sees is arithmetic on (seed, step) and holds no state.

Sample position p = step * batch_size + k. An epoch has n // batch_size full batches, what is left
over is shuffled into the next epoch. With (epoch, j) = divmod(p, steps_per_epoch * batch_size), the
image is permutation(seed, epoch)[j]. So a resumed run, any number of workers and any number of
ranks see the same samples, with nothing to save or to skip.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sslgraph.data.source import BadFile, DataError, Source
from sslgraph.hashing import mix, text_key

_UNKNOWN = -1


class Batch(TypedDict):
    """What a step gets.

    Args:
        image: uint8 B C H W.
        index: Sample positions in the run, int64 B; augmentation draws from them.
        sample: Numbers of the images in the source, int64 B.
        label: int64 B, -1 for an image without one.
    """

    image: Tensor
    index: Tensor
    sample: Tensor
    label: Tensor


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, count: int) -> Tensor:
    """A random order of `count` images, int64, that is a function of its arguments."""
    return mix(seed, text_key("epoch order"), epoch, torch.arange(count)).argsort(stable=True)


class Loader:
    """Training batches of a source, from any step on.

    Args:
        source: Where the images come from.
        batch_size: Images a step, over all ranks.
        seed: Of the order.
        workers: Processes that read ahead; with 0 images are read when asked for.
        device: Where the batches go; the whole uint8 batch in one copy.
        rank: This process takes share `rank` of `world` of each batch, in order.
        world: Number of ranks.
        on_bad: Called in this process with each file that was found unreadable, once.

    Attributes:
        waited: Seconds that `batches` has spent waiting for data, so far.

    Raises:
        DataError: Fewer images than a batch, or a batch that the ranks can't divide.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        on_bad: Callable[[BadFile], None] | None = None,
    ) -> None:
        _check(len(source), batch_size, rank, world)
        self.source = source
        self.batch_size = batch_size
        self.steps_per_epoch = len(source) // batch_size
        self.workers = workers
        self.device = torch.device(device)
        self.waited = 0.0
        self._fetch = _Fetch(source, batch_size, seed, rank, world)
        self._on_bad = on_bad
        self._named: set[BadFile] = set()

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches of steps `start_step`, `start_step` + 1, ... without end.

        Raises:
            DataError: Too many images are unreadable.
        """
        steps = range(start_step, sys.maxsize)
        fetched = self._in_workers(steps) if self.workers else map(self._fetch.__getitem__, steps)
        while True:
            began = time.perf_counter()
            result = next(fetched)
            if isinstance(result, str):
                raise DataError(result)
            batch, bad = result
            self._name(bad)
            on_device = self._moved(batch)
            self.waited += time.perf_counter() - began
            yield on_device

    def _in_workers(self, steps: range) -> Iterator[_Fetched]:
        return iter(
            DataLoader(
                self._fetch,
                batch_size=None,
                sampler=steps,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                pin_memory=self.device.type == "cuda",
                # A generator of its own, or the global one would be drawn from.
                generator=torch.Generator(),
            )
        )

    def _moved(self, batch: Batch) -> Batch:
        return _on(self.device, batch, non_blocking=True)

    def _name(self, bad: Sequence[BadFile]) -> None:
        for file in bad:
            if file not in self._named:
                self._named.add(file)
                if self._on_bad:
                    self._on_bad(file)


def in_order(
    source: Source, *, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Every image once, by index, the last batch as short as it falls; `index` is the index.

    For features, kNN and pictures. Labels are -1 where the source has none.
    """
    for first in range(0, len(source), batch_size):
        indexes = torch.arange(first, min(first + batch_size, len(source)))
        yield _on(device, _batch(source, indexes, indexes))


_Fetched = tuple[Batch, list[BadFile]] | str


class _Fetch(Dataset[_Fetched]):
    """Step -> batch of this rank and what was newly found unreadable, or a failure as text.

    A failure is a value: an exception would come out of a worker as a page of traceback.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.share = batch_size // world
        self.rank = rank
        self.used = len(source) // batch_size * batch_size

    def __getitem__(self, step: int) -> _Fetched:
        first = step * self.batch_size + self.rank * self.share
        positions = torch.arange(first, first + self.share)
        epoch, place = divmod(first, self.used)
        order = permutation(self.seed, epoch, len(self.source))
        known = len(self.source.bad)
        try:
            batch = _batch(self.source, order[place : place + self.share], positions)
        except DataError as error:
            return str(error)
        return batch, list(self.source.bad[known:])


def _batch(source: Source, indexes: Tensor, positions: Tensor) -> Batch:
    listed: list[int] = indexes.tolist()
    image = source.images(listed)
    labels = (source.label(index) for index in listed)
    label = torch.tensor([_UNKNOWN if value is None else value for value in labels])
    return {"image": image, "index": positions, "sample": indexes, "label": label}


def _on(device: torch.device | str, batch: Batch, *, non_blocking: bool = False) -> Batch:
    """The batch on a device."""
    return {
        "image": batch["image"].to(device, non_blocking=non_blocking),
        "index": batch["index"].to(device, non_blocking=non_blocking),
        "sample": batch["sample"].to(device, non_blocking=non_blocking),
        "label": batch["label"].to(device, non_blocking=non_blocking),
    }


def _as_it_is(fetched: Any) -> Any:  # torch types a collate function so
    return fetched


def _check(count: int, batch_size: int, rank: int, world: int) -> None:
    if batch_size < 1:
        raise DataError(f"batch_size is at least 1, got {batch_size}")
    if count < batch_size:
        raise DataError(
            f"{count} images are fewer than one batch of {batch_size}; "
            f"add images or set batch_size to {count} or less"
        )
    if not 0 <= rank < world:
        raise DataError(f"rank {rank} is not one of {world}")
    if batch_size % world:
        raise DataError(f"a batch of {batch_size} can't be divided among {world} ranks")
