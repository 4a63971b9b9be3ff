from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslgraph.data.decode import UnreadableError, header, read


def flat(path: Path, mode: str, color: object, size: tuple[int, int] = (24, 16)) -> Path:
    Image.new(mode, size, color).save(path)  # type: ignore[arg-type]
    return path


def png_of_size(width: int, height: int) -> bytes:
    """A complete png header that claims a size, with hardly any data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "rgb"),
    [
        ("RGB", (10, 20, 30), "png", (10, 20, 30)),
        ("RGB", (10, 20, 30), "bmp", (10, 20, 30)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "tiff", (255, 0, 0)),
        ("LA", (100, 255), "png", (100, 100, 100)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("I;16", 257 * 40, "png", (40, 40, 40)),
        ("I;16", 65535, "tiff", (255, 255, 255)),
        ("F", 0.5, "tiff", (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, color: object, suffix: str, rgb: tuple[int, ...]
) -> None:
    pixels = read(flat(tmp_path / f"x.{suffix}", mode, color), canvas=8, channels=3)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.uint8
    assert [set(channel.flatten().tolist()) for channel in pixels] == [{value} for value in rgb]


def test_palette_with_a_transparent_entry_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([200, 10, 10, 10, 200, 10])
    image.paste(1, (8, 0, 16, 16))
    image.save(tmp_path / "x.png", transparency=0)
    pixels = read(tmp_path / "x.png", canvas=16, channels=3)
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 0, 15].tolist() == [10, 200, 10]


def test_gray_asked_for(tmp_path: Path) -> None:
    pixels = read(flat(tmp_path / "x.png", "RGB", (255, 0, 0)), canvas=4, channels=1)
    assert pixels.shape == (1, 4, 4)
    assert set(pixels.flatten().tolist()) == {76}  # ITU-R 601: 0.299 * 255


@pytest.mark.parametrize(
    ("mode", "color"), [("RGBA", (10, 20, 30, 40)), ("CMYK", (10, 20, 30, 40))]
)
def test_four_channels_stay_as_they_are(tmp_path: Path, mode: str, color: object) -> None:
    pixels = read(flat(tmp_path / "x.tiff", mode, color), canvas=4, channels=4)
    assert pixels.shape == (4, 4, 4)
    if mode == "CMYK":
        assert pixels[:, 0, 0].tolist() == [10, 20, 30, 40]
    assert pixels[3, 0, 0] == 40


def test_channels_that_are_not_there(tmp_path: Path) -> None:
    path = flat(tmp_path / "x.png", "RGB", (1, 2, 3))
    with pytest.raises(UnreadableError, match="RGB image of 3 channels, 4 were asked for"):
        read(path, canvas=4, channels=4)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for name in ("x.gif", "x.png", "x.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read(tmp_path / name, canvas=4, channels=3)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The TIFF definition: which side of the picture the file's row 0 and column 0 are."""
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16] = (255, 0, 0)
    upright[:16, 16:] = (0, 255, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    pixels = read(tmp_path / "x.png", canvas=32, channels=3)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), upright)


def test_aspect_is_kept_and_the_middle_is_taken(tmp_path: Path) -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert set(read(tmp_path / "x.png", canvas=10, channels=3).flatten().tolist()) == {255}
    Image.fromarray(wide.transpose(1, 0, 2).copy()).save(tmp_path / "x.png")
    assert set(read(tmp_path / "x.png", canvas=10, channels=3).flatten().tolist()) == {255}


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "x.png")
    pixels = read(tmp_path / "x.png", canvas=8, channels=1)
    assert pixels.float().sub(127.5).abs().max() < 12


def test_large_jpeg_and_a_single_pixel(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1600).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (1600, 1600)).copy()).save(tmp_path / "x.jpg", quality=95)
    pixels = read(tmp_path / "x.jpg", canvas=16, channels=3).float()
    expected = torch.from_numpy(ramp.astype(np.float32)).view(16, 100).mean(1)
    assert (pixels[0, 8] - expected).abs().max() < 6
    pixel = read(flat(tmp_path / "y.png", "RGB", (9, 8, 7), (1, 1)), canvas=5, channels=3)
    assert pixel[:, 4, 4].tolist() == [9, 8, 7]


def test_jpeg_keeps_the_detail_that_the_canvas_can_show(tmp_path: Path) -> None:
    stripes = np.zeros((128, 128), np.uint8)
    stripes[:, np.arange(128) % 16 < 8] = 255
    Image.fromarray(stripes).save(tmp_path / "x.jpg", quality=95)
    pixels = read(tmp_path / "x.jpg", canvas=64, channels=1)[0, 32].float()
    assert (pixels[torch.arange(64) % 8 == 2] > 240).all()
    assert (pixels[torch.arange(64) % 8 == 6] < 15).all()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        # A directory with one entry: the orientation, as the text "A".
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02A\0\0\0\0\0\0\0",
    ],
)
def test_damaged_metadata_does_not_cost_the_image(tmp_path: Path, exif: bytes) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.jpg", exif=exif)
    assert read(tmp_path / "x.jpg", canvas=4, channels=3).shape == (3, 4, 4)


def truncated_jpeg() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()[: len(stream.getvalue()) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", "no known image format, starts with b'<!DOCTYPE html><'"),
        (truncated_jpeg(), "truncated"),
        (png_of_size(30_000, 30_000), "more than 178,956,970 pixels"),
        (png_of_size(64, 64), ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known image format"),
    ],
)
def test_what_is_not_an_image_says_why(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableError) as caught:
        read(path, canvas=8, channels=3)
    assert reason in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_missing_file_says_why(tmp_path: Path) -> None:
    for function in (lambda p: read(p, canvas=8, channels=3), header):
        with pytest.raises(UnreadableError, match="no such file or directory"):
            function(tmp_path / "x.png")


def test_fractions_outside_their_range(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="outside 0 to 1"):
        read(flat(tmp_path / "x.tiff", "F", 3.5), canvas=4, channels=3)


def test_header_gives_the_shown_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (30, 10)).save(tmp_path / "x.jpg", exif=exif)
    assert header(tmp_path / "x.jpg") == ((10, 30), 1, "JPEG")
    Image.new("P", (5, 6)).save(tmp_path / "y.gif")
    assert header(tmp_path / "y.gif") == ((5, 6), 3, "GIF")
