"""The proof as a whole: on shipped methods, from the command line, and where it can't be made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sslgraph.cli import main
from sslgraph.proving import PROPERTIES, ProofError, prove
from sslgraph.proving.case import Case
from tests import toys
from tests.proving.graphs import with_loss

Command = Callable[..., Result]

TOY = """\
sslgraph: 1
name: toy
nodes:
  views: {use: toy_noise, in: batch.image}
  pixels: {use: toy_pixels, in: views}
  loss: {use: broken_by_place, in: pixels}
minimize: {loss: 1.0}
presets:
  tiny: {nodes: {pixels: {out: 3}}}
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(main, ["prove", *arguments])


def test_every_property_has_one_result_in_order() -> None:
    begun: list[str] = []
    results = prove(with_loss("nt_xent"), ["evaluation", "image_order"], begun=begun.append)
    assert [result.name for result in results] == begun == ["image_order", "evaluation"]


def test_a_failure_is_one_line_with_its_place_and_exits_with_1(command: Command) -> None:
    result = command("toy.yaml", "--property", "image_order", "--property", "view_pairs")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert re.fullmatch(r"image_order +failed +permuting the images changes loss from .*", lines[0])
    assert lines[1].split() == ["at", "toy.yaml:6:3"]
    assert re.fullmatch(r"view_pairs +does not apply +no loss compares pairs of views", lines[2])
    assert re.fullmatch(r"toy, preset tiny: 1 failed, 1 does not apply, in \d+ s", lines[3])


def test_results_for_other_programs(command: Command) -> None:
    result = command("toy.yaml", "--property", "view_pairs", "--json")
    assert result.exit_code == 0
    (data,) = json.loads(result.stdout)
    assert data.pop("seconds") >= 0
    assert data == {
        "source": "toy.yaml",
        "name": "view_pairs",
        "status": "does_not_apply",
        "found": "no loss compares pairs of views",
        "place": "",
    }


def test_an_unknown_property_is_wrong_usage(command: Command) -> None:
    result = command("toy.yaml", "--property", "image_oder")
    assert result.exit_code == 2
    assert "no property 'image_oder': did you mean 'image_order'?" in result.output


def test_a_graph_that_is_too_large_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sslgraph.proving.case._MOST_FLOPS", 1e3)
    with pytest.raises(ProofError, match=r"in small: use a smaller network and smaller views$"):
        prove(with_loss("nt_xent"))


def test_what_breaks_while_it_runs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: dict[str, Any] = {
        **toys.TWO_VIEWS,
        "odd": {"use": "toy_breaks", "in": "head"},
        "loss": {"use": "nt_xent", "in": "odd"},
    }
    (result,) = prove(toys.graph(nodes), ["image_order"])
    assert result.status == "failed"
    assert result.found.startswith("it could not be run; RuntimeError: it broke; in node 'odd'")


def test_two_methods_of_a_case_are_equal_and_share_nothing() -> None:
    case = Case.of(with_loss("nt_xent"))
    one, other = case.method(), case.method()
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (a == b).all(), name
        assert a.data_ptr() != b.data_ptr(), name


def test_a_batch_is_as_large_as_groups_of_batch_norm_need() -> None:
    nodes = {**toys.TWO_VIEWS, "head": {"use": "toy_scale", "in": "pixels"}}
    rule = {"ranks": "own", "groups": 3}
    assert Case.of(toys.graph(nodes, train={"batch_norm": rule})).batch == 24
    assert set(PROPERTIES)  # names are what the command takes
