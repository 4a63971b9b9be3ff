"""Pictures of a plan: svg, png, pdf, dot and Mermaid. Imports no torch; sizes are passed in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from sslgraph.drawing.dot import dot
from sslgraph.drawing.embedding import extract, into_png, into_svg
from sslgraph.drawing.layout import DrawingError, lay_out
from sslgraph.drawing.mermaid import mermaid
from sslgraph.drawing.picture import Picture, Shape, picture
from sslgraph.drawing.union import union

__all__ = [
    "FORMATS",
    "DrawingError",
    "Format",
    "Picture",
    "Shape",
    "extract",
    "format_of",
    "picture",
    "render",
    "union",
]

Format = Literal["svg", "png", "pdf", "dot", "mermaid"]

FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES: dict[str, Format] = {
    **{f".{format_}": format_ for format_ in FORMATS},
    ".mmd": "mermaid",
    ".gv": "dot",
}


def format_of(path: str | Path) -> Format:
    """The format that a file name asks for.

    Raises:
        DrawingError: Its suffix is none of ours.
    """
    suffix = Path(path).suffix
    found = _SUFFIXES.get(suffix.lower())
    if found is None:
        what = f"no format '{suffix}'" if suffix else "no format in its name"
        raise DrawingError(f"{path}: {what}; a picture is one of {', '.join(_SUFFIXES)}")
    return found


def render(picture: Picture, format_: str) -> bytes:
    """The content of a picture file.

    Args:
        picture: What to draw.
        format_: One of `FORMATS`. An svg or png also holds the graph's YAML, see `extract`.

    Raises:
        DrawingError: There is no such format, or Graphviz is missing or fails.
    """
    if format_ == "mermaid":
        return mermaid(picture).encode()
    source = dot(picture)
    if format_ == "dot":
        return source.encode()
    if format_ == "svg":
        return into_svg(lay_out(source, "svg"), picture.source)
    if format_ == "png":
        return into_png(lay_out(source, "png"), picture.source)
    if format_ == "pdf":
        return lay_out(source, "pdf")
    raise DrawingError(f"no format '{format_}'; the formats are {', '.join(FORMATS)}")
