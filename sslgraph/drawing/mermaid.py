"""A picture as Mermaid, which GitHub and many editors draw from the text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from sslgraph.drawing.picture import Arrow, Box, Picture, Role
from sslgraph.drawing.style import (
    REGION_TITLE,
    SOFT,
    STROKES,
    TEXT,
    Look,
    Stroke,
    look,
    shows_stop,
    sign,
    stroke,
)

_SHAPES: Mapping[Role, tuple[str, str]] = {
    "data": ("[/", "/]"),
    "copy": ("[[", "]]"),
    "memory": ("[(", ")]"),
    "output": ("([", "])"),
}
_CONFIG = ("config:", "  flowchart:", "    wrappingWidth: 400")
_ARROWS = {"solid": "-->", "dashed": "-.->", "dotted": "-.->"}
_LINES = {"solid": "---", "dashed": "-.-", "dotted": "-.-"}


def mermaid(picture: Picture) -> str:
    """The Mermaid source of a flow chart; equal pictures give equal text."""
    ids = {box.id: f"n{place}" for place, box in enumerate(picture.boxes)}
    lines = ["---", f"title: {_title(picture.title)}", *_CONFIG, "---", "flowchart TB"]
    lines += _boxes(picture, ids)
    lines += [f"  {_arrow(arrow, ids)}" for arrow in picture.arrows]
    lines += _styles(picture, ids)
    return "\n".join(lines) + "\n"


def _boxes(picture: Picture, ids: Mapping[str, str]) -> Iterator[str]:
    inside = {box for region in picture.regions for box in region}
    by_id = {box.id: box for box in picture.boxes}
    for place, region in enumerate(picture.regions):
        yield f'  subgraph r{place}["{REGION_TITLE}"]'
        yield from (f"    {_box(by_id[box], ids)}" for box in region)
        yield "  end"
    yield from (f"  {_box(box, ids)}" for box in picture.boxes if box.id not in inside)


def _box(box: Box, ids: Mapping[str, str]) -> str:
    opening, closing = _SHAPES.get(box.role, ("(", ")"))
    head = _escaped(box.title)
    rows = [head if box.role in ("data", "output") else f"<b>{head}</b>"]
    if box.type:
        rows.append(f"<i>{_escaped(box.type)}</i>")
    rows += [f"<small>{_escaped(line)}</small>" for line in box.details]
    return f'{ids[box.id]}{opening}"{"<br/>".join(rows)}"{closing}'


def _arrow(arrow: Arrow, ids: Mapping[str, str]) -> str:
    drawn = stroke(arrow)
    words = arrow.words if arrow.line != "weights" else (STROKES["weights"].says,)
    text = " ".join(part for part in (sign(arrow), *words) if part)
    if arrow.input:
        text += f" to {arrow.input}"
    label = f'|"{_escaped(text)}"|' if text else ""
    forms = _LINES if arrow.line == "weights" else _ARROWS
    return f"{ids[arrow.tail]} {forms[drawn.style]}{label} {ids[arrow.head]}"


def _styles(picture: Picture, ids: Mapping[str, str]) -> Iterator[str]:
    groups: dict[Look, list[str]] = {}
    for box in picture.boxes:
        groups.setdefault(look(box), []).append(ids[box.id])
    for place, (drawn, members) in enumerate(groups.items()):
        colors = f"fill:{drawn.fill},stroke:{drawn.border},color:{TEXT}"
        dashes = ",stroke-dasharray:4 3" if drawn.style == "dashed" else ""
        yield f"  classDef look{place} {colors},stroke-width:{drawn.width:g}px{dashes}"
        yield f"  class {','.join(members)} look{place}"
    stopping = [ids[box.id] for box in picture.boxes if shows_stop(box)]
    if stopping:
        yield "  classDef stops stroke-dasharray:4 3"
        yield f"  class {','.join(stopping)} stops"
    for place in range(len(picture.regions)):
        yield f"  style r{place} fill:none,stroke:{SOFT}"  # the page may be dark
    lines: dict[Stroke, list[str]] = {}
    for place, arrow in enumerate(picture.arrows):
        lines.setdefault(stroke(arrow), []).append(str(place))
    for line, places in lines.items():
        yield f"  linkStyle {','.join(places)} stroke:{line.color},stroke-width:{line.width:g}px"


def _title(text: str) -> str:
    """The title as a YAML string in double quotes, on one line; no Mermaid text, so no entities."""
    return json.dumps(" ".join(text.split()), ensure_ascii=False)


def _escaped(text: str) -> str:
    """Text that Mermaid shows as it is: all but plain characters as entities by number."""
    return "".join(c if c.isalnum() or c in _PLAIN else _entity(c) for c in text)


_PLAIN = " .,:-_/()[]+=*!?'"


def _entity(character: str) -> str:
    return f"#{ord(character)};" if character.isprintable() else " "
