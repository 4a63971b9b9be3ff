"""Contact sheets: labelled rows of pictures, to look at what a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sslgraph.files import replacing

_GAP = 4
_SMALLEST_TILE = 64
_TEXT = 13
_PAPER = (255, 255, 255)
_INK = (20, 20, 20)


def contact_sheet(rows: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Draw rows of pictures, each under its label.

    Args:
        rows: Label and pictures, uint8 B C H W; 1 channel or 2 are shown as gray, of more the first
            three as colours. Small pictures are enlarged by a whole factor.

    Returns:
        RGB image, dark text on white, no row wider than the widest.

    Raises:
        ValueError: No rows, a row without pictures, or pictures of another type.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    strips = [_strip(label, pictures) for label, pictures in rows]
    font = ImageFont.load_default(size=_TEXT)
    line = _TEXT + 2 * _GAP
    width = max(max(strip.width, _text_width(label, font)) for label, strip in strips) + 2 * _GAP
    height = sum(strip.height + line for _, strip in strips) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for label, strip in strips:
        draw.text((_GAP, top + _GAP), label, fill=_INK, font=font)
        sheet.paste(strip, (_GAP, top + line))
        top += line + strip.height
    return sheet


def save_sheet(path: Path, rows: Sequence[tuple[str, Tensor]]) -> None:
    """Write a contact sheet as png, the whole file or none."""
    sheet = contact_sheet(rows)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _strip(label: str, pictures: Tensor) -> tuple[str, Image.Image]:
    if pictures.ndim != 4 or pictures.dtype != torch.uint8 or not len(pictures):
        found = f"{pictures.dtype} {list(pictures.shape)}"
        raise ValueError(f"row '{label}': expected uint8 B C H W with B > 0, got {found}")
    shown = pictures.cpu()
    shown = shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1].expand(-1, 3, -1, -1)
    height, width = shown.shape[2:]
    factor = max(1, -(-_SMALLEST_TILE // max(height, width)))
    strip = Image.new("RGB", ((width * factor + _GAP) * len(shown) - _GAP, height * factor), _PAPER)
    for place, picture in enumerate(shown.permute(0, 2, 3, 1).contiguous().numpy()):
        tile = Image.fromarray(picture)
        tile = tile.resize((width * factor, height * factor), Image.Resampling.NEAREST)
        strip.paste(tile, (place * (width * factor + _GAP), 0))
    return label, strip


def _text_width(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(font.getlength(label)) + 1
