"""A picture as DOT, the language of Graphviz."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Iterator

import graphviz

from sslgraph.drawing.picture import Arrow, Box, Picture
from sslgraph.drawing.style import (
    CHANGED,
    LOOKS,
    PAGE,
    REGION,
    REGION_BORDER,
    REGION_TITLE,
    SOFT,
    STOPS,
    STROKES,
    TEXT,
    Look,
    legend,
    look,
    shows_stop,
    sign,
    stroke,
)

# The first two are about equally wide, so a box that was measured with one fits the other: an svg
# does not carry its font.
FONT = "DejaVu Sans,Verdana,Helvetica,Arial,sans-serif"
_TITLE_WIDTH = 72
_TITLE_LINES = 3
_LEGEND_COLUMNS = 4
# The way of the gradient is kept straight, outputs hang aside.
_WEIGHTS = {"gradient": "8", "output": "1"}
_SHAPES = {"memory": "cylinder", "data": "box", "output": "box"}


def dot(picture: Picture) -> str:
    """The DOT source; equal pictures give equal text."""
    graph = graphviz.Digraph("sslgraph")
    graph.attr(
        rankdir="TB", bgcolor=PAGE, pad="0.15", nodesep="0.35", ranksep="0.42", fontname=FONT,
        fontcolor=TEXT, labelloc="t", label=_heading(picture), forcelabels="true",
    )  # fmt: skip
    graph.attr("node", fontname=FONT, fontsize="12", fontcolor=TEXT, margin="0.1,0.05")
    graph.attr("edge", fontname=FONT, fontsize="9", fontcolor=SOFT, arrowsize="0.7")
    with graph.subgraph(name="cluster_page") as page:  # carries the legend as its label
        page.attr(label=_legend(picture), labelloc="b", labeljust="c", peripheries="0", margin="6")
        inside = {box for region in picture.regions for box in region}
        for place, region in enumerate(picture.regions):
            with page.subgraph(name=f"cluster_{place}") as cluster:
                cluster.attr(
                    label=REGION_TITLE, labelloc="t", labeljust="r", fontsize="9", margin="10",
                    fontcolor=SOFT, style="rounded,filled", fillcolor=REGION, color=REGION_BORDER,
                    peripheries="1",
                )  # fmt: skip
                for box in picture.boxes:
                    if box.id in region:
                        _add_box(cluster, box)
        for box in picture.boxes:
            if box.id not in inside:
                _add_box(page, box)
        for arrow in picture.arrows:
            _add_arrow(page, arrow)
    return str(graph.source)


def _add_box(graph: graphviz.Digraph, box: Box) -> None:
    drawn = look(box)
    corners = "" if box.role in ("data", "memory") else "rounded,"
    dashed = ",dashed" if shows_stop(box) or drawn.style == "dashed" else ""
    graph.node(
        box.id,
        label=_label(box),
        shape=_SHAPES.get(box.role, "box"),
        style=f"{corners}filled{dashed}",
        fillcolor=drawn.fill,
        color=drawn.border,
        penwidth=f"{drawn.width:g}",
        peripheries="2" if box.role == "copy" else "1",
        tooltip=graphviz.escape(_plain(box.hint)),
    )


def _label(box: Box) -> str:
    """The text of a box as an HTML-like table: its inputs, name, type and details."""
    rows = []
    if box.inputs:
        cells = "".join(
            f'<TD PORT="in_{_html(name)}" SIDES="B" BORDER="1" COLOR="{look(box).border}" '
            f'CELLPADDING="3">{_small(name)}</TD>'
            for name in box.inputs
        )
        rows.append(_table([cells], spacing=3))
    plain = box.role in ("data", "output")
    title = _small(box.title, 11, TEXT) if plain else f"<B>{_html(box.title)}</B>"
    rows.append(title)
    if box.type:
        rows.append(_small(box.type, 10, TEXT))
    rows += [_small(line) for line in box.details]
    return f"<{_table([f'<TD>{row}</TD>' for row in rows], padding=1)}>"


def _add_arrow(graph: graphviz.Digraph, arrow: Arrow) -> None:
    drawn = stroke(arrow)
    text = _on_the_arrow(arrow)
    head = f"{arrow.head}:in_{arrow.input}:n" if arrow.input else arrow.head
    graph.edge(
        arrow.tail,
        head,
        color=drawn.color,
        style=drawn.style,
        penwidth=f"{drawn.width:g}",
        weight=_WEIGHTS.get(arrow.line, "2"),
        arrowhead="none" if arrow.line == "weights" else "normal",
        **({"label": f"<&nbsp;{text}&nbsp;>"} if text else {}),
        **({"constraint": "false"} if arrow.back or arrow.line == "weights" else {}),
    )


def _on_the_arrow(arrow: Arrow) -> str:
    port, text = arrow.words
    words = f"<B>{_html(port)}</B> {_html(text)}".rstrip() if port else _html(text)
    mark = f"<B>{_small(sign(arrow), 13, TEXT)}</B>" if sign(arrow) else ""
    return f"{mark} {words}".strip()


def _heading(picture: Picture) -> str:
    lines = [f'<FONT POINT-SIZE="16"><B>{line}</B></FONT>' for line in _wrapped(picture.title, 56)]
    lines += [_small(line, 11, escaped=True) for line in _wrapped(picture.summary, _TITLE_WIDTH)]
    return f"<{_table([f'<TD>{line}</TD>' for line in lines], padding=2)}>"


def _legend(picture: Picture) -> str:
    """A table of samples with words; a column is a sample and its words."""
    cells = list(_legend_cells(picture))
    if not cells:
        return ""
    columns = -(-len(cells) // -(-len(cells) // _LEGEND_COLUMNS))  # rows of about one length
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return f"<{_table([''.join(row) for row in rows], spacing=5)}>"


def _legend_cells(picture: Picture) -> Iterator[str]:
    shown = legend(picture)
    for role in shown.roles:
        yield _entry(_swatch(LOOKS[role], double=role == "copy"), LOOKS[role].says)
    for mark in shown.marks:
        drawn = CHANGED[mark]
        samples = [_swatch(drawn)]
        if any(arrow.mark == mark for arrow in picture.arrows):
            samples.append(_sample(drawn.border, drawn.style))
        yield _entry(_table(["".join(f"<TD>{s}</TD>" for s in samples)], spacing=2), drawn.says)
    if shown.stops:
        yield _entry(_swatch(Look(PAGE, SOFT, STOPS, style="dashed")), STOPS)
    for line in shown.lines:
        yield _entry(_sample(STROKES[line].color, STROKES[line].style), STROKES[line].says)


def _sample(color: str, style: str) -> str:
    above = f'{_size(22, 8)} BORDER="2" SIDES="B" STYLE="{style}" COLOR="{color}"'
    return _table([f"<TD {above}></TD>", f"<TD {_size(22, 3)}></TD>"])


def _swatch(drawn: Look, *, double: bool = False) -> str:
    box = f'BORDER="1" STYLE="{drawn.style}" COLOR="{drawn.border}" BGCOLOR="{drawn.fill}"'
    if not double:
        return _table([f"<TD {_size(20, 10)} {box}></TD>"])
    inner = f"<TR><TD {_size(16, 6)} {box}></TD></TR>"
    frame = f'BORDER="1" COLOR="{drawn.border}" CELLBORDER="0" CELLSPACING="1"'
    return f"<TABLE {frame}>{inner}</TABLE>"


def _size(width: int, height: int) -> str:
    return f'WIDTH="{width}" HEIGHT="{height}" FIXEDSIZE="TRUE"'


def _table(rows: Iterable[str], *, spacing: int = 0, padding: int = 0) -> str:
    """A table without lines; a row is its cells."""
    body = "".join(f"<TR>{row}</TR>" for row in rows)
    gaps = f'CELLSPACING="{spacing}" CELLPADDING="{padding}"'
    return f'<TABLE BORDER="0" CELLBORDER="0" {gaps}>{body}</TABLE>'


def _entry(sample: str, words: str) -> str:
    return f'<TD>{sample}</TD><TD ALIGN="LEFT">{_small(words, 9)}&nbsp;&nbsp;</TD>'


def _wrapped(text: str, width: int) -> list[str]:
    """The text in up to three lines, escaped; none for an empty text."""
    text = " ".join(_plain(text).split())
    even = -(-len(text) // max(1, -(-len(text) // width))) + 8
    lines = textwrap.wrap(text, min(width, even), max_lines=_TITLE_LINES, placeholder=" ...")
    return [_html(line) for line in lines]


def _small(text: str, size: int = 9, color: str = SOFT, *, escaped: bool = False) -> str:
    inner = text if escaped else _html(text)
    return f'<FONT POINT-SIZE="{size}" COLOR="{color}">{inner}</FONT>'


def _html(text: str) -> str:
    return html.escape(_plain(text))


def _plain(text: str) -> str:
    """The text without the characters that XML has no way to write."""
    return "".join(c if c.isprintable() else " " for c in text)
