"""Two graphs in one picture: marks, what stands in the boxes, and every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import sslgraph
from sslgraph.drawing import Picture, extract, render
from sslgraph.drawing.dot import dot
from sslgraph.drawing.mermaid import mermaid
from sslgraph.drawing.picture import Box
from sslgraph.drawing.style import legend
from sslgraph.drawn import picture_of_difference
from tests.drawing.conftest import GRAPH, changed
from tests.drawing.test_formats import HOSTILE, SVG, groups


def united(before: dict[str, Any], after: dict[str, Any]) -> Picture:
    a, b = sslgraph.load(before), sslgraph.load(after)
    return picture_of_difference(sslgraph.diff(a, b, names=("old", "new")), a, b)


def without(*names: str) -> dict[str, Any]:
    """The toy graph without some nodes."""
    nodes = {name: node for name, node in GRAPH["nodes"].items() if name not in names}
    weights = {name: weight for name, weight in GRAPH["minimize"].items() if name not in names}
    return {**GRAPH, "nodes": nodes, "minimize": weights}


def with_nodes(**nodes: Any) -> dict[str, Any]:
    return {**GRAPH, "nodes": {**GRAPH["nodes"], **nodes}}


def box(drawn: Picture, id_: str) -> Box:
    (found,) = [box for box in drawn.boxes if box.id == id_]
    return found


def marks(drawn: Picture) -> dict[str, str | None]:
    return {box.id: box.mark for box in drawn.boxes}


def ways(drawn: Picture, mark: str) -> list[tuple[str, str, str, str]]:
    """The arrows with a mark."""
    found = [arrow for arrow in drawn.arrows if arrow.mark == mark]
    return sorted((a.tail, a.head, a.input, a.port) for a in found)


def test_equal_graphs_are_all_unchanged() -> None:
    drawn = united(GRAPH, GRAPH)
    assert {b.mark for b in drawn.boxes} == {a.mark for a in drawn.arrows} == {"same"}
    assert drawn.summary == "no difference"
    assert legend(drawn).marks == ("same",)


def test_what_one_graph_has_alone_is_added_or_removed() -> None:
    small = without("past", "far")
    there, back = united(small, GRAPH), united(GRAPH, small)
    assert (there.title, there.summary) == (
        "old -> new",
        "2 nodes added, 1 value of the run changed",
    )
    for drawn, mark, sign in ((there, "added", "+"), (back, "removed", "-")):
        assert [name for name, found in marks(drawn).items() if found == mark] == ["past", "far"]
        assert box(drawn, "past").title == f"{sign} past"
        assert box(drawn, "past").role == "memory"
        assert box(drawn, "far").inputs == ("guess", "goal")
        assert ways(drawn, mark) == [
            ("past", "far", "goal", ""),
            ("slow", "past", "", ""),
            ("top", "far", "guess", ""),
        ]
        assert set(marks(drawn).values()) == {mark, "same"}


def test_changed_settings_stand_in_their_box() -> None:
    other = with_nodes(**changed("body", width=32, mode="b"), **changed("slow", momentum=0.9))
    drawn = united(GRAPH, {**other, "minimize": {**GRAPH["minimize"], "near": 2.0}})
    assert box(drawn, "body").details == ("width: 16 -> 32", "mode: a (default) -> b")
    assert box(drawn, "slow").details == ("momentum: {cosine: [0.996, 1.0]} -> 0.9",)
    assert box(drawn, "near").details == ("minimize: 1.0 -> 2.0",)
    amber = ["body", "slow", "near"]
    assert [name for name, mark in marks(drawn).items() if mark == "changed"] == amber
    assert [box(drawn, name).title for name in amber] == ["~ body", "~ slow", "~ near"]
    assert box(drawn, "top").details == ()


def test_a_moved_wire_is_one_removed_and_one_added() -> None:
    nodes = changed("near", **{"in": {"guess": "top.1", "goal": "past"}})
    drawn = united(GRAPH, with_nodes(**nodes))
    assert ways(drawn, "removed") == [
        ("slow", "near", "goal", ".1"),
        ("top", "near", "guess", ".0"),
    ]
    assert ways(drawn, "added") == [("past", "near", "goal", ""), ("top", "near", "guess", ".1")]
    assert set(marks(drawn).values()) == {"same"}


def test_an_input_that_one_graph_has_alone_is_told_apart() -> None:
    nodes = {"same": {"use": "spread", "in": "top"}}
    drawn = united(GRAPH, with_nodes(**nodes))
    assert box(drawn, "same").inputs == ("x", "guess", "goal")
    assert ("top", "same", "x", "") in ways(drawn, "added")
    assert ("fixed", "same", "goal", "") in ways(drawn, "removed")


def test_a_renamed_node_is_one_box_and_its_wires_are_unchanged() -> None:
    nodes = {("base" if name == "body" else name): node for name, node in GRAPH["nodes"].items()}
    nodes |= changed("top", **{"in": "base.vector"}) | changed("slow", of=["base", "top"])
    outputs = {"embedding": "base.vector", "tokens": "base.tokens"}
    drawn = united(GRAPH, {**GRAPH, "nodes": nodes, "outputs": outputs})
    assert box(drawn, "base").title == "~ body -> base"
    assert [name for name, mark in marks(drawn).items() if mark != "same"] == ["base"]
    assert {arrow.mark for arrow in drawn.arrows} == {"same"}


def test_ports_of_a_renamed_member_are_the_same() -> None:
    def graph(body: str) -> dict[str, Any]:
        nodes = {
            "views": {"use": "crops", "in": "batch.image"},
            body: {"use": "encoder", "in": "views.wide", "arch": "test_resnet"},
            "slow": {"use": "ema", "of": [body, "top"], "in": "views.wide", "momentum": 0.9},
            "top": {"use": "projector", "in": f"{body}.embedding", "out": 8},
            "apart": {"use": "spread", "in": "top"},
        }
        outputs = {"embedding": f"slow.{body}.embedding"}
        return {**GRAPH, "nodes": nodes, "outputs": outputs, "minimize": {"apart": 1}}

    drawn = united(graph("body"), graph("base"))
    assert {arrow.mark for arrow in drawn.arrows} == {"same"}
    assert [a.port for a in drawn.arrows if a.line == "output"] == ["base.embedding"]


def test_outputs_and_the_run_are_compared_too() -> None:
    outputs = {"tokens": "body.vector", "more": "top"}
    drawn = united(GRAPH, {**GRAPH, "outputs": outputs, "train": {"batch_size": 8}})
    found = {b.title: b.mark for b in drawn.boxes if b.role == "output"}
    assert found == {
        "outputs.tokens": "same",
        "+ outputs.more": "added",
        "- outputs.embedding": "removed",
    }
    (run,) = [b for b in drawn.boxes if b.title == "~ run"]
    assert run.details == ("train.batch_size: 256 (default) -> 8",)
    ids = [b.id for b in drawn.boxes]
    assert len(set(ids)) == len(ids)
    assert {end for a in drawn.arrows for end in (a.tail, a.head)} <= set(ids)


def test_another_member_is_another_line_of_weights() -> None:
    drawn = united(GRAPH, with_nodes(**changed("slow", of=["body"])))
    (line,) = [a for a in drawn.arrows if a.mark == "removed"]
    assert (line.tail, line.head, line.line) == ("top", "slow", "weights")
    assert box(drawn, "slow").details == ("of: [body, top] -> body",)


def test_many_changes_are_cut_and_long_ones_shortened_on_each_side() -> None:
    parts = {f"key{i}": i for i in range(20)}
    long = changed("top", note="a" * 200, parts=parts)
    drawn = united(with_nodes(**changed("top", note="b" * 200)), with_nodes(**long))
    details = box(drawn, "top").details
    assert details[-1] == "and 13 more"
    assert len(details) == 9
    (note,) = [line for line in details if line.startswith("note: ")]
    assert note == f"note: {'b' * 13}...{'b' * 12} -> {'a' * 13}...{'a' * 12}"


@pytest.fixture
def everything() -> Picture:
    """Something added, removed, changed and unchanged."""
    before = without("far")
    nodes = {**GRAPH["nodes"], **changed("body", width=32)}
    del nodes["same"]
    weights = {name: w for name, w in GRAPH["minimize"].items() if name != "same"}
    return united(before, {**GRAPH, "nodes": nodes, "minimize": weights})


def test_dot_tells_marks_apart_without_colour(everything: Picture) -> None:
    lines = [line.strip() for line in dot(everything).splitlines()]
    node = {
        name: next(line for line in lines if line.startswith(f"{name} ["))
        for name in ("far", "same", "body", "top")
    }
    assert "dashed" in node["same"]
    assert not any("dashed" in node[name] for name in ("far", "body", "top"))
    assert "penwidth=2.4" in node["far"]
    assert "penwidth=1 " in node["top"]
    assert "<B>+ far</B>" in node["far"]
    assert "<B>~ body</B>" in node["body"]
    assert "<B>- same</B>" in node["same"]
    added = next(line for line in lines if line.startswith("past -> far:in_goal:n"))
    assert "style=solid" in added
    assert ">+</FONT>" in added
    removed = next(line for line in lines if line.startswith("fixed -> same:in_goal:n"))
    assert "style=dashed" in removed
    assert ">-</FONT>" in removed
    for words in ("+ added", "- removed", "~ changed", "unchanged"):
        assert any(words in line for line in lines)


def test_svg_is_sound_and_holds_the_second_graph(everything: Picture, tmp_path: Path) -> None:
    svg = render(everything, "svg")
    written = groups(svg, "node")
    assert set(written) == {b.id for b in everything.boxes}
    assert written["body"] == "~ body net width: 16 -> 32"
    assert written["far"].startswith("guess goal + far compare")
    assert written["same"].startswith("guess goal - same compare")
    colors = {
        title: {path.get("stroke") for path in group.iter() if path.get("stroke")}
        for group in ElementTree.fromstring(svg).iter(f"{SVG}g")
        if group.get("class") == "node" and (title := group.findtext(f"{SVG}title"))
    }
    assert "#009e73" in colors["far"]
    assert "#d55e00" in colors["same"]
    assert "#e69f00" in colors["body"]
    path = tmp_path / "x.svg"
    path.write_bytes(svg)
    assert "width: 32" in extract(path)
    assert "same:" not in extract(path)


def test_mermaid_has_every_mark(everything: Picture) -> None:
    lines = [line.strip() for line in mermaid(everything).splitlines()]
    ids = {b.id: f"n{place}" for place, b in enumerate(everything.boxes)}
    for name, head in (("far", "+ far"), ("same", "- same"), ("body", "#126; body")):
        assert any(line.startswith(ids[name]) and f"<b>{head}</b>" in line for line in lines)
    assert f'{ids["past"]} -->|"+ to goal"| {ids["far"]}' in lines
    assert f'{ids["fixed"]} -.->|"- to goal"| {ids["same"]}' in lines
    (style,) = [line for line in lines if line.startswith("classDef") and "#d55e00" in line]
    assert style.endswith("stroke-dasharray:4 3")


def test_hostile_names_are_shown_as_they_are() -> None:
    outputs = {HOSTILE: "top", "o" * 900: "body.vector"}
    nodes = changed("body", note=HOSTILE)
    drawn = united(GRAPH, {**GRAPH, "outputs": outputs, "nodes": {**GRAPH["nodes"], **nodes}})
    svg = render(drawn, "svg")
    assert set(groups(svg, "node")) == {b.id for b in drawn.boxes}
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))
    assert mermaid(drawn)


def test_wrong_wires_are_no_picture() -> None:
    a, b = sslgraph.load(GRAPH), sslgraph.load(with_nodes(**changed("top", **{"in": "bdy"})))
    with pytest.raises(sslgraph.GraphError, match="did you mean 'body'"):
        picture_of_difference(sslgraph.diff(a, b), a, b)
