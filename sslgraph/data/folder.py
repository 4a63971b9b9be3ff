"""Any tree of images as a source: no labels, no layout, no list of files needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from sslgraph.data import decode
from sslgraph.data.scan import Headers, Listing, class_folders, sample_headers, walk
from sslgraph.data.source import BadFile, DataError

_FIRST = 1000
_BAD_OF_FIRST = 10


@dataclass(frozen=True)
class FolderSummary:
    """What a folder holds and what will be made of it; `str` gives the lines for people.

    Args:
        root: The folder as it was given.
        listing: Every image, and what else is there.
        headers: Sizes, channels and formats of a sample.
        classes: First-level folders that serve as labels for kNN.
        canvas: Side of the pictures that come out, in pixels.
        channels: Their number of channels.
    """

    root: Path
    listing: Listing
    headers: Headers
    classes: Sequence[str]
    canvas: int
    channels: int

    def __str__(self) -> str:
        return "\n".join([self._files(), *self._headers(), self._labels(), self._shape()])

    def _files(self) -> str:
        text = f"{self.root}: {_count(len(self.listing.files), 'image')}"
        other = self.listing.other
        if other:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in other.most_common(3))
            text += f"; not images by their names: {kinds}{', ...' if len(other) > 3 else ''}"
        if self.listing.closed:
            text += f"; no permission for {_count(len(self.listing.closed), 'folder')}, "
            text += f"such as {self.listing.closed[0]}"
        return text

    def _headers(self) -> list[str]:
        seen = self.headers
        every = seen.count == len(self.listing.files)
        basis = "all headers" if every else f"headers of {seen.count} of the files"
        lines = []
        if seen.sizes:
            low, middle, high = (f"{w}x{h}" for w, h in (seen.smallest, seen.median, seen.largest))
            bands = _counted({_count(n, "channel"): files for n, files in seen.channels.items()})
            kinds = _counted(seen.formats)
            lines.append(f"sizes {low} to {high}, median {middle}; {bands}; {kinds} ({basis})")
        if seen.bad:
            named = "; ".join(f"{bad.uri}: {bad.reason}" for bad in seen.bad[:3])
            more = f"; and {len(seen.bad) - 3} more" if len(seen.bad) > 3 else ""
            lines.append(f"unreadable {len(seen.bad)} ({basis}): {named}{more}")
        return lines

    def _labels(self) -> str:
        if not self.classes:
            return "no labels: fewer than two folders on the first level"
        return f"{len(self.classes)} labels from the folders on the first level, for kNN only"

    def _shape(self) -> str:
        side, count = self.canvas, _count(self.channels, "channel")
        return (
            f"canvas {side}: turned by EXIF, aspect kept, shorter side to {side} pixels, "
            f"middle {side} x {side}, {count}"
        )


class ImageFolder:
    """All images below a folder, each as a square of `canvas` pixels.

    A batch has one shape, so each image is scaled with its aspect kept until its shorter side is
    `canvas`, and the middle square is taken: nothing is squeezed or padded, and what an elongated
    picture has at its ends is lost. Crops are then drawn from the square.

    An unreadable image is added to `bad` once and the next readable one stands in for it; which one
    that is depends on the files alone, so a resumed run sees the same.

    Args:
        root: The folder.
        canvas: Side of the square; 8/7 of the largest crop is usual, as 256 is to 224.
        channels: 3 converts every image to RGB, 1 to gray; 2 and 4 take only images that have so
            many (gray with alpha; RGBA or CMYK as they are), others count as unreadable.
        on_bad: Called with each unreadable file, once, in the process that found it.

    Raises:
        DataError: No such folder, no permission, no images, or settings out of range.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        canvas: int,
        channels: int = 3,
        on_bad: Callable[[BadFile], None] | None = None,
    ) -> None:
        if canvas < 1:
            raise DataError(f"canvas is at least 1 pixel, got {canvas}")
        if channels not in decode.channels():
            known = ", ".join(map(str, decode.channels()))
            raise DataError(f"channels is one of {known}, got {channels}")
        self.root = Path(root).expanduser()
        self.canvas = canvas
        self.channels = channels
        self.bad: list[BadFile] = []
        self._on_bad = on_bad
        self._listing = walk(self.root)
        self.classes: Sequence[str] = class_folders(self._listing.files)
        self._labels = {name: label for label, name in enumerate(self.classes)}
        self._tried: set[int] = set()
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._listing.files)

    def summary(self) -> FolderSummary:
        """What is there; opens the headers of at most 256 files."""
        headers = sample_headers(self.root, self._listing.files)
        return FolderSummary(
            self.root, self._listing, headers, self.classes, self.canvas, self.channels
        )

    def images(self, indexes: Sequence[int]) -> Tensor:
        """Pixels, uint8 B channels canvas canvas.

        Raises:
            DataError: More than 10 of the first 1000 images, or half of all, are unreadable.
        """
        return torch.stack([self._readable(int(index)) for index in indexes])

    def label(self, index: int) -> int | None:
        """Place of the first-level folder in `classes`; None for an image that lies in none.

        Where the image was found unreadable, that of the one which stands in for it.
        """
        return self._labels.get(PurePosixPath(self._listing.files[self._stand_in(index)]).parts[0])

    def uri(self, index: int) -> str:
        """The file's name below the root, in characters that can be printed; see `label`."""
        return self._printable(self._stand_in(index))

    def _printable(self, index: int) -> str:
        return os.fsencode(self._listing.files[index]).decode("utf-8", "backslashreplace")

    def _stand_in(self, index: int) -> int:
        while index in self._broken:
            index = (index + 1) % len(self)
        return index

    def _readable(self, index: int) -> Tensor:
        while True:
            index = self._stand_in(index)
            if len(self._tried) < _FIRST:
                self._tried.add(index)
            try:
                path = self.root / self._listing.files[index]
                return decode.read(path, canvas=self.canvas, channels=self.channels)
            except decode.UnreadableError as error:
                self._note(index, str(error))

    def _note(self, index: int, reason: str) -> None:
        bad = BadFile(self._printable(index), reason)
        self._broken.add(index)
        self.bad.append(bad)
        if self._on_bad:
            self._on_bad(bad)
        early = len(self._tried) < _FIRST and len(self.bad) > _BAD_OF_FIRST
        if early or 2 * len(self.bad) > len(self):
            raise DataError(self._too_many())

    def _too_many(self) -> str:
        last = self.bad[-1]
        seen = len(self._tried | self._broken)
        return (
            f"{len(self.bad)} of {seen} images of {self.root} can't be read, the last is "
            f"{last.uri}: {last.reason}; repair or remove them, or set channels to what they have"
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _counted(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} ({number})" for name, number in ordered)
