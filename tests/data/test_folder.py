from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslgraph.data import BadFile, DataError, ImageFolder, Source
from sslgraph.data.scan import natural, walk


def picture(path: Path, value: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def shades(folder: ImageFolder, indexes: list[int]) -> list[int]:
    return [int(pixels[0, 0, 0]) for pixels in folder.images(indexes)]


def test_any_tree_without_labels_in_natural_order(tmp_path: Path) -> None:
    for value, name in enumerate(["b/c/d/1.png", "img1.png", "img2.PNG", "img10.png"]):
        picture(tmp_path / name, value)
    (tmp_path / "notes.txt").write_text("x")
    picture(tmp_path / ".hidden" / "x.png")
    picture(tmp_path / "._img1.png")
    folder = ImageFolder(tmp_path, canvas=8)
    assert isinstance(folder, Source)
    assert len(folder) == 4
    assert [folder.uri(i) for i in range(4)] == ["b/c/d/1.png", "img1.png", "img2.PNG", "img10.png"]
    assert shades(folder, [3, 0, 2]) == [3, 0, 2]
    assert folder.images([0, 1]).shape == (2, 3, 8, 8)
    assert folder.classes == []
    assert folder.label(0) is None


def test_first_level_folders_are_labels(tmp_path: Path) -> None:
    for name in ("cat/x/1.png", "cat2/1.png", "cat10/1.png", "loose.png"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    folder = ImageFolder(tmp_path, canvas=8)
    assert folder.classes == ["cat", "cat2", "cat10"]
    labels = {folder.uri(i): folder.label(i) for i in range(len(folder))}
    assert labels == {"cat/x/1.png": 0, "cat2/1.png": 1, "cat10/1.png": 2, "loose.png": None}


def test_natural_order_tells_apart_what_looks_equal() -> None:
    mixed = ["b", "a10", "a2", "a1", "a01"]
    assert sorted(mixed, key=natural) == ["a01", "a1", "a2", "a10", "b"]


def test_sizes_of_every_kind_make_one_batch(tmp_path: Path) -> None:
    for number, size in enumerate([(1, 1), (300, 20), (20, 300), (7, 7), (64, 48)]):
        picture(tmp_path / f"{number}.png", 9, size)
    batch = ImageFolder(tmp_path, canvas=16).images(range(5))
    assert batch.shape == (5, 3, 16, 16)
    assert set(batch.flatten().tolist()) == {9}


def test_channels(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(tmp_path / "x.png")
    for channels in (1, 3, 4):
        folder = ImageFolder(tmp_path, canvas=8, channels=channels)
        assert folder.images([0]).shape == (1, channels, 8, 8)
    with pytest.raises(DataError, match="channels is one of 1, 2, 3, 4, got 5"):
        ImageFolder(tmp_path, canvas=8, channels=5)


def test_unreadable_image_is_named_once_and_the_next_stands_in(tmp_path: Path) -> None:
    for value in range(6):
        picture(tmp_path / f"{'ab'[value > 2]}" / f"{value}.png", value)
    for value in (2, 3, 5):
        (tmp_path / "ab"[value > 2] / f"{value}.png").write_bytes(b"<html>")
    named: list[BadFile] = []
    folder = ImageFolder(tmp_path, canvas=8, on_bad=named.append)
    for _ in range(2):
        assert shades(folder, [2, 5, 3, 1]) == [4, 0, 4, 1]
    assert [bad.uri for bad in named] == ["a/2.png", "b/3.png", "b/5.png"]
    assert named == folder.bad
    assert "starts with b'<html>'" in named[0].reason
    assert (folder.label(2), folder.uri(2)) == (1, "b/4.png")
    assert shades(ImageFolder(tmp_path, canvas=8), [3]) == [4]


def test_too_many_unreadable_images_end_it_in_one_line(tmp_path: Path) -> None:
    for value in range(40):
        picture(tmp_path / f"{value}.png", value)
        if value % 3 == 0:
            (tmp_path / f"{value}.png").write_bytes(b"")
    folder = ImageFolder(tmp_path, canvas=8)
    assert len(folder.images(range(30))) == 30
    assert len(folder.bad) == 10
    with pytest.raises(DataError) as caught:
        folder.images([30])
    assert str(caught.value) == (
        f"11 of 31 images of {tmp_path} can't be read, the last is 30.png: empty file; "
        "repair or remove them, or set channels to what they have"
    )


def test_a_few_bad_files_late_do_not_end_it(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    for number in range(1030):
        (tmp_path / f"{number}.png").write_bytes(data if number < 1000 else b"")
    folder = ImageFolder(tmp_path, canvas=4)
    assert len(folder.images(range(1030))) == 1030
    assert len(folder.bad) == 30


def test_nothing_but_unreadable_images(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 2 images of .* can't be read"):
        ImageFolder(tmp_path, canvas=8).images([0])
    assert "unreadable 3 (all headers): 0.jpg: empty file" in str(
        ImageFolder(tmp_path, canvas=8).summary()
    )


def test_link_loops_end_and_linked_folders_count_once(tmp_path: Path) -> None:
    picture(tmp_path / "real" / "1.png")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "twice").symlink_to(tmp_path / "real")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    picture(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "alias.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    assert walk(tmp_path).files == ["alias.png", "elsewhere/2.png", "real/1.png"]


def test_missing_path_suggests_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "zebra").mkdir()
    with pytest.raises(DataError) as caught:
        ImageFolder(tmp_path / "photo", canvas=8)
    assert str(caught.value) == (
        f"no such folder: {tmp_path / 'photo'}; did you mean {tmp_path / 'photos'}?"
    )
    with pytest.raises(DataError) as caught:
        ImageFolder(tmp_path / "a" / "b" / "c", canvas=8)
    assert str(caught.value).endswith(f"c; it exists up to {tmp_path}")


def test_what_is_not_a_folder_of_images(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "x.png")
    with pytest.raises(DataError, match=r"x.png is a file; give the folder .* such as .*in$"):
        ImageFolder(tmp_path / "in" / "x.png", canvas=8)
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in .*: the folder is empty; give one"):
        ImageFolder(tmp_path / "empty", canvas=8)
    (tmp_path / "empty" / "deep" / "a.csv").write_text("")
    (tmp_path / "empty" / "README").write_text("")
    with pytest.raises(DataError, match=r"it holds 1 no suffix, 1 \.csv; known suffixes: \.apng"):
        ImageFolder(tmp_path / "empty", canvas=8)
    with pytest.raises(DataError, match="canvas is at least 1 pixel, got 0"):
        ImageFolder(tmp_path / "in", canvas=0)


def test_folders_that_can_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the system, since the superuser may enter every folder."""
    picture(tmp_path / "open" / "x.png")
    picture(tmp_path / "shut" / "x.png")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    folder = ImageFolder(tmp_path, canvas=8)
    assert len(folder) == 1
    assert "no permission for 1 folder, such as shut" in str(folder.summary())
    (tmp_path / "open" / "x.png").unlink()
    with pytest.raises(DataError, match="no permission to read its folder shut"):
        ImageFolder(tmp_path, canvas=8)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match="no permission to read"):
        ImageFolder(tmp_path, canvas=8)


def test_summary_says_what_is_there(tmp_path: Path) -> None:
    for name, size in (("a/1.png", (20, 10)), ("a/2.png", (64, 48)), ("b/1.jpg", (300, 200))):
        picture(tmp_path / name, size=size)
    Image.new("L", (30, 30)).save(tmp_path / "b" / "2.png")
    (tmp_path / "b" / "3.png").write_bytes(b"")
    (tmp_path / "b" / "labels.csv").write_text("")
    assert str(ImageFolder(tmp_path, canvas=32).summary()).splitlines() == [
        f"{tmp_path}: 5 images; not images by their names: 1 .csv",
        "sizes 20x10 to 300x200, median 30x30; 3 channels (3), 1 channel (1); "
        "PNG (3), JPEG (1) (all headers)",
        "unreadable 1 (all headers): b/3.png: empty file",
        "2 labels from the folders on the first level, for kNN only",
        "canvas 32: turned by EXIF, aspect kept, shorter side to 32 pixels, "
        "middle 32 x 32, 3 channels",
    ]


def test_only_a_sample_of_headers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    for number in range(600):
        (tmp_path / f"{number}.png").write_bytes(data)
    opened: list[Path] = []
    original = Image.open

    def counted(path: Path, **options: object) -> Image.Image:
        opened.append(path)
        return original(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", counted)
    folder = ImageFolder(tmp_path, canvas=8)
    assert opened == []
    text = str(folder.summary())
    assert len(opened) == 256
    assert "600 images" in text
    assert "(headers of 256 of the files)" in text
    numbers = [int(path.stem) for path in opened]
    assert np.diff(numbers).max() <= 3
    assert numbers[-1] > 590
    first = list(opened)
    opened.clear()
    folder.summary()
    assert opened == first


def test_names_that_are_not_text(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    try:
        os.rename(os.fsencode(tmp_path / "x.png"), os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    folder = ImageFolder(tmp_path, canvas=8)
    assert folder.uri(0) == "\\xff.png"
    assert folder.images([0]).dtype == torch.uint8
