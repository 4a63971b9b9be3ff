"""Each format opens, holds everything, says the same twice and survives hostile text."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

import sslgraph
from sslgraph.drawing import FORMATS, DrawingError, extract, format_of, picture, render
from sslgraph.drawing.dot import dot
from sslgraph.drawing.embedding import NAMESPACE
from sslgraph.drawing.mermaid import mermaid
from sslgraph.drawing.picture import Picture
from sslgraph.files import WriteError
from sslgraph.plan import Plan
from tests.drawing.conftest import GRAPH, Planner, changed

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script>\"\\ <b>&amp; \\N %%{init} #35; {x|y} 'z' \u2028 \u00e9\u6f22 ]]> -->"


@pytest.fixture
def drawn(plan: Plan) -> Picture:
    return picture(plan)


@pytest.fixture
def hostile(plan_of: Planner) -> Picture:
    nodes = {
        **GRAPH["nodes"],
        **changed("body", note=HOSTILE),
        **changed("views", parts={HOSTILE: 1}),
        "n" * 200: {"use": "head", "in": "top"},
        "node": {"use": "head", "in": "n" * 200},  # a keyword of DOT
    }
    outputs = {HOSTILE: "node", "o" * 900: "top"}
    return picture(plan_of(title=HOSTILE, summary=HOSTILE * 20, nodes=nodes, outputs=outputs))


def groups(svg: bytes, kind: str) -> dict[str, str]:
    """Title of each node or edge of an SVG -> all that is written in it."""
    found = ElementTree.fromstring(svg).iter(f"{SVG}g")
    return {
        g.findtext(f"{SVG}title") or "": " ".join(t.text or "" for t in g.iter(f"{SVG}text"))
        for g in found
        if g.get("class") == kind
    }


def test_svg_has_every_box_and_arrow(drawn: Picture) -> None:
    svg = render(drawn, "svg")
    nodes = groups(svg, "node")
    assert set(nodes) == {box.id for box in drawn.boxes}
    assert all(box.title in nodes[box.id] for box in drawn.boxes)
    assert nodes["slow"] == "slow copied copy of body, top momentum: 0.996 -> 1"
    assert nodes["near"] == "guess goal near compare minimize: 1"
    ends = {tuple(part.partition(":")[0] for part in e.split("->")) for e in groups(svg, "edge")}
    assert ends == {(arrow.tail, arrow.head) for arrow in drawn.arrows}


def test_png_and_pdf_open(drawn: Picture) -> None:
    with Image.open(io.BytesIO(render(drawn, "png"))) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 300
        shades = image.convert("RGB").getcolors(2**20)
    assert shades is not None
    assert (252, 228, 214) in {color for _, color in shades}  # the fill of a loss
    assert render(drawn, "pdf").startswith(b"%PDF")


def test_marks_in_dot(drawn: Picture) -> None:
    lines = dot(drawn).splitlines()
    node = {
        name: next(line for line in lines if line.strip().startswith(f"{name} ["))
        for name in ("slow", "past", "fixed", "near", "top")
    }
    assert "peripheries=2" in node["slow"]
    assert "shape=cylinder" in node["past"]
    assert "dashed" in node["fixed"]
    assert "penwidth=2.2" in node["near"]
    assert not any(mark in node["top"] for mark in ("peripheries=2", "dashed", "penwidth=2.2"))
    edge = next(line for line in lines if line.strip().startswith("slow -> near:in_goal:n"))
    assert "style=dashed" in edge
    edge = next(line for line in lines if line.strip().startswith("top -> near:in_guess:n"))
    assert "style=solid" in edge


def test_mermaid_has_every_box_and_arrow(drawn: Picture) -> None:
    text = mermaid(drawn)
    lines = [line.strip() for line in text.splitlines()]
    ids = {box.id: f"n{place}" for place, box in enumerate(drawn.boxes)}
    for box in drawn.boxes:
        assert [line for line in lines if line.startswith(ids[box.id]) and box.title in line]
    arrows = [line.split() for line in lines if re.match(r"n\d+ (-->|-\.->|-\.-)", line)]
    ends = [(words[0], words[-1]) for words in arrows]
    assert ends == [(ids[arrow.tail], ids[arrow.head]) for arrow in drawn.arrows]
    slow, past = ids["slow"], ids["past"]
    region = lines.index('subgraph r0["no gradient"]')
    assert lines[region + 1].startswith(f'{slow}[["')
    assert lines[region + 2].startswith(f'{past}[("')
    assert f'{slow} -.->|".1 embedding to goal"| {ids["near"]}' in lines
    assert f'{ids["top"]} -->|".0 embedding to guess"| {ids["near"]}' in lines


def test_hostile_text_is_shown_as_it_is_in_svg(hostile: Picture) -> None:
    svg = render(hostile, "svg")
    written = groups(svg, "node")
    assert written["n" * 200] == "n" * 17 + "..." + "n" * 16 + " head"
    assert set(written) == {box.id for box in hostile.boxes}
    root = ElementTree.fromstring(svg)
    whole = " ".join(t.text or "" for t in root.iter(f"{SVG}text"))
    shown = " ".join(HOSTILE.split())
    assert "".join(shown.split()) in "".join(whole.split())
    assert not list(root.iter(f"{SVG}script"))


def test_hostile_text_stays_inside_quotes_in_mermaid(hostile: Picture) -> None:
    lines = mermaid(hostile).splitlines()
    assert json.loads(lines[1].removeprefix("title: ")) == " ".join(HOSTILE.split())
    body = lines[lines.index("flowchart TB") :]
    assert not [line for line in body if line.count('"') not in (0, 2)]
    assert not [line for line in body if "script>" in line or "%%" in line or "{" in line]
    assert "#34;#60;#47;script#62;" in "".join(body).replace("/", "#47;")


def test_control_characters_reach_no_format(drawn: Picture) -> None:
    odd = Picture("a\x07b\x00", "c\x1b", drawn.boxes, drawn.arrows, drawn.regions, "x: 1\n")
    svg = render(odd, "svg")
    ElementTree.fromstring(svg)
    for text in (svg.decode(), dot(odd), mermaid(odd)):
        assert not {"\x07", "\x00", "\x1b"} & set(text)


def test_equal_graphs_give_equal_pictures(plan_of: Planner) -> None:
    for format_ in ("dot", "mermaid", "svg", "png"):
        first, second = (render(picture(plan_of()), format_) for _ in range(2))
        assert first == second, format_


@pytest.mark.parametrize("format_", ["svg", "png"])
def test_the_yaml_inside_a_picture_comes_back(
    hostile: Picture, tmp_path: Path, format_: str
) -> None:
    path = tmp_path / f"x.{format_}"
    path.write_bytes(render(hostile, format_))
    assert extract(path) == hostile.source
    (tmp_path / "again.yaml").write_text(extract(path), encoding="utf-8")
    again = sslgraph.load(tmp_path / "again.yaml")
    assert again.title == HOSTILE
    assert again.document.text == hostile.source


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x89PNG\r\n\x1a\n broken",
        b'<!DOCTYPE a [<!ENTITY b "c">]><a><graph xmlns="%s">&b;</graph></a>' % NAMESPACE.encode(),
        b"\xff\xfe\x00",
    ],
)
def test_a_file_without_a_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.svg"
    path.write_bytes(content)
    with pytest.raises(DrawingError, match=r"other\.svg holds no graph: give an svg or png"):
        extract(path)


def test_a_missing_picture_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DrawingError, match=r"can't read .*: No such file or directory"):
        extract(tmp_path / "none.svg")


@pytest.mark.parametrize(
    ("name", "format_"),
    [("a.svg", "svg"), ("a.PNG", "png"), ("a.b.mmd", "mermaid"), ("a.gv", "dot"), ("a.pdf", "pdf")],
)
def test_the_suffix_says_the_format(name: str, format_: str) -> None:
    assert format_of(name) == format_


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", "a.html: no format '.html'; a picture is one of .svg, .png, .pdf, .dot"),
        ("a", "a: no format in its name; a picture is one of .svg"),
    ],
)
def test_another_suffix_is_one_line_with_the_formats(name: str, text: str) -> None:
    with pytest.raises(DrawingError) as caught:
        format_of(name)
    assert str(caught.value).startswith(text)


def test_an_unknown_format_is_one_line_with_the_formats(drawn: Picture) -> None:
    with pytest.raises(DrawingError) as caught:
        render(drawn, "jpeg")
    assert str(caught.value) == f"no format 'jpeg'; the formats are {', '.join(FORMATS)}"


def test_draw_writes_a_whole_file_or_none(tmp_path: Path) -> None:
    graph = sslgraph.load(GRAPH)
    sslgraph.draw(graph, tmp_path / "new" / "x.svg", sizes=False)
    assert extract(tmp_path / "new" / "x.svg") == graph.document.text
    sslgraph.draw(graph, tmp_path / "y.txt", format="mermaid", sizes=False)
    assert (tmp_path / "y.txt").read_text(encoding="utf-8").startswith("---\ntitle:")
    (tmp_path / "z.dot").mkdir()
    with pytest.raises(WriteError, match=r"can't write .*z\.dot: Is a directory"):
        sslgraph.draw(graph, tmp_path / "z.dot", sizes=False)
    with pytest.raises(DrawingError):
        sslgraph.draw(graph, tmp_path / "x.html", sizes=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "y.txt", "z.dot"]


def test_a_graph_with_mistakes_is_not_drawn(tmp_path: Path) -> None:
    graph = sslgraph.load({**GRAPH, "nodes": {**GRAPH["nodes"], **changed("top", **{"in": "bdy"})}})
    with pytest.raises(sslgraph.GraphError, match="did you mean 'body'"):
        sslgraph.draw(graph, tmp_path / "x.svg", sizes=False)
    assert not list(tmp_path.iterdir())


def test_the_layer_imports_no_torch() -> None:
    program = "import sys, sslgraph.drawing, sslgraph.drawn; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(sslgraph.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
