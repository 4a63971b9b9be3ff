"""Finding the images of a folder, and saying what was found."""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from sslgraph.data.decode import SUFFIXES, UnreadableError, header
from sslgraph.data.source import BadFile, DataError

_SAMPLE = 256
_NUMBER = re.compile(r"([0-9]+)")


@dataclass
class Listing:
    """What a walk over a tree met.

    Args:
        files: Images by name, relative to the root with `/`, in natural order (2 before 10).
        other: How many files have each other suffix; those are not opened.
        closed: Folders that can't be entered.
    """

    files: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    closed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Headers:
    """What the headers of a sample of files say; at most 256, evenly spread over the list.

    Args:
        count: How many files were looked at.
        sizes: Width and height of each, as shown.
        channels: Number of files by number of channels.
        formats: Number of files by format.
        bad: Those that could not be read, and why.
    """

    count: int
    sizes: list[tuple[int, int]]
    channels: Counter[int]
    formats: Counter[str]
    bad: list[BadFile]

    @property
    def smallest(self) -> tuple[int, int]:
        """Width and height of the image with the shortest side."""
        return min(self.sizes, key=lambda size: (min(size), max(size)))

    @property
    def largest(self) -> tuple[int, int]:
        """Width and height of the image with the most pixels."""
        return max(self.sizes, key=lambda size: (size[0] * size[1], size))

    @property
    def median(self) -> tuple[int, int]:
        """Median width and median height."""
        widths, heights = zip(*self.sizes, strict=True)
        return statistics.median_low(widths), statistics.median_low(heights)


def walk(root: Path) -> Listing:
    """List every image below a folder.

    Names that begin with a dot are left out. Links are followed; a folder that several links or a
    loop lead to is entered once.

    Raises:
        DataError: No such path, not a folder, not readable, or no images in it.
    """
    check_folder(root)
    listing = Listing()
    for name in _names(root, listing):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            listing.files.append(name)
        else:
            listing.other[suffix or "no suffix"] += 1
    if not listing.files:
        raise DataError(_nothing(root, listing))
    listing.files.sort(key=natural)
    return listing


def check_folder(root: Path) -> None:
    """Raise one clear line if a path can't be a folder of images."""
    if not root.exists():
        raise DataError(f"no such folder: {root}{_neighbour(root)}")
    if not root.is_dir():
        raise DataError(
            f"{root} is a file; give the folder that holds the images, such as {root.parent}"
        )
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(f"no permission to read {root}; change its access rights or copy it")


def sample_headers(root: Path, files: list[str]) -> Headers:
    """Read the headers of at most 256 files; the same files every time."""
    count = min(_SAMPLE, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]
    headers = Headers(count, [], Counter(), Counter(), [])
    for name in chosen:
        try:
            size, channels, file_format = header(root / name)
        except UnreadableError as error:
            headers.bad.append(BadFile(name, str(error)))
        else:
            headers.sizes.append(size)
            headers.channels[channels] += 1
            headers.formats[file_format] += 1
    return headers


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key that takes digits as numbers, with the name itself to settle 1 and 01."""
    parts = [int(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(name))]
    return parts, name


def class_folders(files: list[str]) -> list[str]:
    """First-level folders that hold images, in natural order; none where there is only one."""
    firsts = {PurePosixPath(name).parts[0] for name in files if "/" in name}
    return sorted(firsts, key=natural) if len(firsts) > 1 else []


def _names(root: Path, listing: Listing) -> Iterator[str]:
    """Names of all files below the root, relative to it."""
    entered: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            state = os.stat(root / folder)
            with os.scandir(root / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            listing.closed.append(folder)
            continue
        if (state.st_dev, state.st_ino) in entered:
            continue
        entered.add((state.st_dev, state.st_ino))
        visible = [entry for entry in found if not entry.name.startswith(".")]
        prefix = f"{folder}/" if folder else ""
        yield from (prefix + entry.name for entry in visible if _is(entry, folder=False))
        waiting += [prefix + entry.name for entry in reversed(visible) if _is(entry, folder=True)]


def _is(entry: os.DirEntry[str], *, folder: bool) -> bool:
    """Whether an entry is a folder or a file behind its links; neither where a link is broken."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:
        return False


def _neighbour(root: Path) -> str:
    """The part of a path that is missing, and what it may have meant."""
    parent = root.absolute().parent
    if not parent.is_dir():
        while not parent.is_dir():
            parent = parent.parent
        return f"; it exists up to {parent}"
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:
        return f"; {parent} can't be read"
    near = get_close_matches(root.name, names, n=1)
    return f"; did you mean {root.with_name(near[0])}?" if near else ""


def _nothing(root: Path, listing: Listing) -> str:
    if listing.other:
        most = ", ".join(f"{count} {suffix}" for suffix, count in listing.other.most_common(3))
        wanted = " ".join(sorted(SUFFIXES))
        return f"no images in {root}; it holds {most}; known suffixes: {wanted}"
    if listing.closed:
        return f"no images in {root}; no permission to read its folder {listing.closed[0]}"
    return f"no images in {root}: the folder is empty; give one that holds images, at any depth"
