"""All passes together: which run, in which order their problems come."""

from __future__ import annotations

from pathlib import Path

from sslgraph.checking import check, report
from sslgraph.loading import read
from tests.toys import TWO_VIEWS, graph


def test_a_sound_graph() -> None:
    found = report(graph(TWO_VIEWS))
    assert found.problems == []
    assert found.plan is not None
    assert found.sizes is not None
    short = report(graph(TWO_VIEWS), sizes=False)
    assert (short.problems, short.sizes) == ([], None)
    assert short.plan is not None


def test_broken_wires_make_no_plan() -> None:
    nodes = {**TWO_VIEWS, "loss": {"use": "nt_xent", "in": "nobody"}}
    found = report(graph(nodes))
    assert [p.code for p in found.problems] == ["E201"]
    assert found.plan is None


def test_problems_of_all_passes_stand_in_file_order(tmp_path: Path) -> None:
    """Reading finds the second and the last, settings the third, wires the others."""
    file = tmp_path / "many.yaml"
    file.write_text(
        "sslgraph: 1\n"
        "nodes:\n"
        "  views: {use: toy_noise, in: batch.imge}\n"
        "  Pixels: {use: toy_pixels, in: views}\n"
        "  head: {use: toy_scale, in: views, factr: 2}\n"
        "  loss: {use: nt_xent, in: head.z}\n"
        "minimize: {loss: 1.0}\n"
        "train: {epoch: 3}\n"
    )
    loaded, _ = read(file)
    assert loaded is not None
    problems = check(loaded)
    assert [(p.span.line, p.code) for p in problems] == [
        (3, "E202"),
        (4, "E033"),
        (5, "E203"),
        (5, "E102"),
        (6, "E202"),
        (8, "E041"),
    ]
    assert all(p.span.file == str(file) for p in problems)


def test_a_warning_does_not_stop_the_sizes() -> None:
    nodes = {**TWO_VIEWS, "idle": {"use": "toy_scale", "in": "head"}}
    found = report(graph(nodes))
    assert [p.code for p in found.problems] == ["W303"]
    assert found.sizes is not None
    assert ("idle", "y") not in found.sizes.shapes
