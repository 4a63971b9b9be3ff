from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslgraph.data import contact_sheet, save_sheet


def tiles(count: int, channels: int, size: int, value: int) -> torch.Tensor:
    return torch.full((count, channels, size, size), value, dtype=torch.uint8)


def test_rows_stand_below_each_other_with_their_labels() -> None:
    first, second = tiles(3, 3, 32, 200), tiles(2, 3, 32, 50)
    first[:, 1:] = second[:, 1:] = 0  # red, which no text is
    sheet = np.asarray(contact_sheet([("view 0", first), ("view 1", second)]))
    assert sheet.ndim == 3
    is_first, is_second = ((sheet == (value, 0, 0)).all(-1) for value in (200, 50))
    # 32 pixels are enlarged to 64, so that a person sees something.
    assert is_first.sum() == 3 * 64 * 64
    assert is_second.sum() == 2 * 64 * 64
    rows = [np.flatnonzero(mask.any(1)) for mask in (is_first, is_second)]
    assert rows[0].max() < rows[1].min()
    for row in rows:
        label = sheet[row.min() - 18 : row.min() - 1]
        assert (label < 128).any()


def test_pictures_keep_their_pixels_and_order() -> None:
    picture = torch.randint(0, 255, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    sheet = np.asarray(contact_sheet([("x", picture.to(torch.uint8))]))
    height = sheet.shape[0]
    for number in range(2):
        left = 4 + number * 68
        found = sheet[height - 68 : height - 4, left : left + 64]
        assert np.array_equal(found, picture[number].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channels_can_be_shown(channels: int) -> None:
    sheet = np.asarray(contact_sheet([("x", tiles(1, channels, 64, 90))]))
    assert (sheet == 90).all(-1).sum() == 64 * 64


def test_long_label_is_not_cut() -> None:
    label = "a very long label of a very small picture " * 3
    sheet = np.asarray(contact_sheet([(label, tiles(1, 3, 8, 255))]))
    ink = np.flatnonzero((sheet < 128).any((0, 2)))
    assert ink.max() < sheet.shape[1] - 1
    assert sheet.shape[1] > 600


def test_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    save_sheet(tmp_path / "views" / "step_0000.png", [("x", tiles(1, 3, 8, 7))])
    with Image.open(tmp_path / "views" / "step_0000.png") as image:
        assert image.format == "PNG"
        image.load()
    assert [path.name for path in (tmp_path / "views").iterdir()] == ["step_0000.png"]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "at least one row"),
        ([("x", torch.zeros(2, 3, 8, 8))], r"row 'x': expected uint8 B C H W .* torch.float32"),
        ([("x", torch.zeros(0, 3, 8, 8, dtype=torch.uint8))], "B > 0"),
    ],
)
def test_wrong_input_is_named(rows: list[tuple[str, torch.Tensor]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        contact_sheet(rows)
