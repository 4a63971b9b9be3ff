"""A graph that is too large for a proof: what is proposed exists, and makes it small enough."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sslgraph.loading import load
from sslgraph.proving import ProofError
from sslgraph.proving.case import Case
from sslgraph.spec import Graph

GRAPH = """\
sslgraph: 1
name: big
vars: {side: 96, patch: 4, width: 64, colour: 0.5}
nodes:
  views: {use: augment, in: batch.image, views: 2, size: $side, ops: [{gray: $colour}]}
  tokens: {use: patchify, in: views, patch: $patch}
  head: {use: projector, in: tokens, hidden: [$width], out: 48, norm: none}
  loss: {use: mse, in: {prediction: head, target: tokens}, pairs: same}
minimize: {loss: 1.0}
"""
PRESETS = """\
presets:
  wide: {vars: {side: 128}}
  tiny: {vars: {side: 32}}
  wrong: {vars: {side: 16}, nodes: {tokens: {patch: 5}}}
  small: {nodes: {views: {size: 48}}}
"""
FIXED = GRAPH.replace("$side", "96").replace(" side: 96,", "")


@pytest.fixture(autouse=True)
def as_much_as_views_of_64_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """126 MFLOP with this network; views of 96 take 283."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sslgraph.proving.case._MOST_FLOPS", 1.26e8)


def written(text: str, preset: str | None = None, **settings: int) -> Graph:
    Path("big.yaml").write_text(text, encoding="utf-8")
    return load("big.yaml", preset=preset, set={f"vars.{k}": v for k, v in settings.items()})


def proposed(graph: Graph) -> list[str]:
    """The arguments that the refusal names."""
    with pytest.raises(ProofError, match="is too large to be proved on a CPU") as refused:
        Case.of(graph)
    _, _, text = str(refused.value).partition("the wiring is the same in small: use ")
    found = re.findall(r"--(?:preset|set) \S+", text)
    assert text == (" or ".join(found) or "a smaller network and smaller views")
    return found


def test_presets_that_are_small_enough() -> None:
    graph = written(GRAPH + PRESETS)
    assert proposed(graph) == ["--preset tiny", "--preset small"]
    for preset in ("tiny", "small"):
        Case.of(written(GRAPH + PRESETS, preset=preset))


def test_not_the_preset_in_force() -> None:
    assert proposed(written(GRAPH + PRESETS, "wide")) == ["--preset tiny", "--preset small"]
    assert proposed(written(GRAPH + PRESETS, "tiny", side=96)) == ["--preset small"]


def test_variables_that_exist_at_a_value_that_works() -> None:
    assert proposed(written(GRAPH)) == ["--set vars.side=64", "--set vars.width=16"]
    for name, value in (("side", 64), ("width", 16)):
        Case.of(written(GRAPH, None, **{name: value}))


def test_a_variable_of_a_preset_without_another_one() -> None:
    graph = written(GRAPH + "presets: {wide: {vars: {side: 128}}}\n", "wide")
    assert proposed(graph) == ["--set vars.side=64", "--set vars.width=16"]


def test_nothing_that_does_not_exist_or_does_not_help() -> None:
    """A smaller patch breaks this graph, and there is no variable with a size."""
    fixed = GRAPH.replace("$side", "96").replace("$width", "64")
    fixed = fixed.replace("side: 96, ", "").replace("width: 64, ", "")
    assert proposed(written(fixed)) == []
    assert proposed(written(fixed + "presets: {gray: {vars: {colour: 0.6}}}\n")) == []


def test_a_graph_that_was_given_as_data() -> None:
    data = load(written(GRAPH + PRESETS).document.written)
    assert proposed(data) == ["--preset tiny", "--preset small"]
    data = load(written(GRAPH + PRESETS).document.written, preset="wide")
    assert proposed(data) == ["--set vars.side=64", "--set vars.width=16"]
