"""The graph's YAML inside its picture, so that a picture can be run again."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from sslgraph.drawing.layout import DrawingError

NAMESPACE = "https://pypi.org/project/sslgraph"
_KEY = "sslgraph"
_TAG = f"{{{NAMESPACE}}}graph"
_MOST_BYTES = 64 * 2**20


def into_svg(svg: bytes, text: str) -> bytes:
    """The SVG with `text` in a `<metadata>` element, first of all."""
    escaped = escape(text, {"\r": "&#13;"})
    metadata = f'\n<metadata><graph xmlns="{NAMESPACE}">{escaped}</graph></metadata>'
    opening = re.search(rb"<svg\b[^>]*>", svg)
    if opening is None:
        raise DrawingError("Graphviz gave no SVG")
    return svg[: opening.end()] + metadata.encode() + svg[opening.end() :]


def into_png(png: bytes, text: str) -> bytes:
    """The PNG with `text` as international text under the key ``sslgraph``."""
    info, made = PngInfo(), io.BytesIO()
    info.add_itxt(_KEY, text, zip=True)
    with Image.open(io.BytesIO(png)) as image:
        image.save(made, "png", pnginfo=info, dpi=image.info.get("dpi"), optimize=True)
    return made.getvalue()


def extract(path: str | Path) -> str:
    """The YAML of the graph that a picture shows.

    Args:
        path: An SVG or PNG that `draw` made.

    Raises:
        DrawingError: The file can't be read or holds no graph.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DrawingError(f"{path} is too large for a picture of a graph")
        data = path.read_bytes()
    except OSError as error:
        raise DrawingError(f"can't read {path}: {error.strerror or error}") from error
    text = _from_png(data) if data.startswith(b"\x89PNG") else _from_svg(data)
    if text is None:
        raise DrawingError(f"{path} holds no graph: give an svg or png that sslgraph drew")
    return text


def _from_svg(data: bytes) -> str | None:
    if b"<!ENTITY" in data:  # no picture of ours has one; expanding them may fill the memory
        return None
    try:
        found = ElementTree.fromstring(data).find(f".//{_TAG}")
    except ElementTree.ParseError:
        return None
    return None if found is None else found.text or ""


def _from_png(data: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            text = getattr(image, "text", {}).get(_KEY)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    return None if text is None else str(text)
