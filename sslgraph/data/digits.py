"""The embedded data set: real handwritten digits, drawn as cluttered colour pictures.

The 1797 digits of UCI optdigits (8 x 8 pixels, see `digits.LICENSE.txt`) are split by digit into
1252 for training and 545 for testing. A picture shows one of them somewhere on a coloured gradient,
among fragments of others in the same ink, with pixel noise.

Measured (`tools/bench/digits.py`, 7512 training and 1090 test pictures of 32 pixels, chance 10 %):
kNN on raw pixels, k = 1 and 20, l2 and cosine, finds 16.2 to 18.6 %; on rung A, plain digits, 98 %.
A network of 0.2 M parameters trained with labels reaches 93 % in 110 s of one thread, so the
default is neither easy nor hopeless.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sslgraph.data.clutter import Clutter, render
from sslgraph.data.source import BadFile, DataError
from sslgraph.hashing import mix, text_key

Split = Literal["train", "test"]

CLASSES = tuple("0123456789")

_LEVELS = 16
_CHUNK = 128
_RENDERS: dict[Split, int] = {"train": 6, "test": 2}
_SMALLEST_CANVAS = 8


@cache
def optdigits() -> tuple[Tensor, Tensor]:
    """Ink of the 1797 digits, float32 N 8 8 in [0, 1], and their labels, int64 N."""
    with as_file(files("sslgraph.data") / "digits.npz") as path, np.load(path) as archive:
        images = torch.from_numpy(archive["images"]).to(torch.float32) / _LEVELS
        return images, torch.from_numpy(archive["labels"]).to(torch.int64)


@cache
def split_ids(split: Split) -> Tensor:
    """The digits of a split, int64, ascending: of each class, 3 n // 10 + 1 are for testing."""
    _, labels = optdigits()
    ids = torch.arange(len(labels))
    rank = mix(text_key("optdigits split"), ids)
    chosen = []
    for label in range(len(CLASSES)):
        members = ids[labels == label]
        shuffled = members[rank[members].argsort()]
        tests = 3 * len(members) // 10 + 1
        chosen.append(shuffled[:tests] if split == "test" else shuffled[tests:])
    return torch.cat(chosen).sort().values


class EmbeddedDigits:
    """Cluttered colour digits as a source; pictures are drawn when asked for and kept.

    Args:
        split: `train`, or `test` for digits that training never shows, whole or in fragments.
        canvas: Side of the pictures in pixels.
        seed: Another seed gives other pictures of the same digits.
        clutter: What makes them hard; `RUNGS` has named choices.
        renders: Pictures of each digit; 6 of the 1252 for training and 2 of the 545 for testing
            where it is not given. Each prefix of the indexes shows as many digits as it can.

    Raises:
        DataError: Unknown split, a canvas under 8 pixels, or no renders.
    """

    classes: Sequence[str] = CLASSES
    bad: Sequence[BadFile] = ()

    def __init__(
        self,
        split: Split = "train",
        *,
        canvas: int = 32,
        seed: int = 0,
        clutter: Clutter | None = None,
        renders: int | None = None,
    ) -> None:
        if split not in _RENDERS:
            raise DataError(f"no split '{split}' in the embedded digits; there are: train, test")
        if canvas < _SMALLEST_CANVAS:
            raise DataError(f"canvas {canvas} is too small for digits of 8 x 8 pixels; from 8")
        self.split = split
        self.canvas = canvas
        self.seed = seed
        self.clutter = clutter or Clutter()
        self.renders = _RENDERS[split] if renders is None else renders
        if self.renders < 1:
            raise DataError(f"renders is at least 1, got {self.renders}")
        self._ids = split_ids(split)
        self._pixels = torch.empty(len(self), 3, canvas, canvas, dtype=torch.uint8)
        self._drawn = torch.zeros(len(self), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._ids) * self.renders

    def images(self, indexes: Sequence[int]) -> Tensor:
        """Pixels, uint8 B 3 canvas canvas."""
        wanted = torch.as_tensor(indexes, dtype=torch.int64)
        for missing in torch.split(wanted[~self._drawn[wanted]], _CHUNK):
            self._pixels[missing] = self._render(missing)
            self._drawn[missing] = True
        return self._pixels[wanted]

    def label(self, index: int) -> int:
        """The digit, 0 to 9."""
        return int(optdigits()[1][self._ids[index % len(self._ids)]])

    def uri(self, index: int) -> str:
        """Such as `optdigits/17#2`: the third picture of digit 17."""
        view, place = divmod(index, len(self._ids))
        return f"optdigits/{int(self._ids[place])}#{view}"

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"embedded digits, {self.split}: {len(self)} images of {len(self._ids)} digits, "
            f"{self.canvas} x {self.canvas} pixels, 10 classes"
        )

    def _render(self, indexes: Tensor) -> Tensor:
        return render(
            optdigits()[0],
            self._ids[indexes % len(self._ids)],
            indexes // len(self._ids),
            seed=self.seed,
            canvas=self.canvas,
            clutter=self.clutter,
            pool=self._ids,
        )
