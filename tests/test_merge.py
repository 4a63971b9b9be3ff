"""Parent, file, preset and single values, one over the other, each with its place."""

from pathlib import Path
from typing import Any

import pytest

from sslgraph.errors import Problem, errors_of, render
from sslgraph.loading import read
from sslgraph.spec import Graph

PARENT = """
sslgraph: 1
name: parent
title: The Parent
family: joint-embedding
vars: {dim: 128, arch: resnet50}
nodes:
  encoder: {use: encoder, in: batch.image, arch: $arch}
  head: {use: projector, in: {x: encoder}, hidden: [2048, 2048], out: $dim}
  loss: {use: nt_xent, in: head, temperature: 0.1}
minimize: {loss: 1.0}
train: {optimizer: sgd, lr: {base: 0.3, per: 256}, epochs: 100}
presets:
  tiny: {vars: {dim: 16}, train: {epochs: null, steps: 10}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parent.yaml").write_text(PARENT)
    return tmp_path


def child(text: str, name: str = "child.yaml") -> str:
    Path(name).write_text("sslgraph: 1\nextends: parent.yaml\n" + text)
    return name


def graph_of(source: Any, **options: Any) -> Graph:
    graph, problems = read(source, **options)
    assert graph is not None
    assert not problems, "\n".join(map(render, problems))
    return graph


def problems_of(source: Any, **options: Any) -> list[Problem]:
    graph, problems = read(source, **options)
    assert graph is not None
    return problems


@pytest.mark.usefixtures("folder")
def test_mappings_merge_and_all_else_replaces() -> None:
    graph = graph_of(child("nodes: {head: {hidden: [8], act: gelu}}\n"))
    assert graph.nodes["head"].settings == {"hidden": [8], "out": 128, "act": "gelu"}
    assert list(graph.nodes) == ["encoder", "head", "loss"]
    assert graph.name == "child"  # a name, a title and a paper belong to one file
    assert graph.title == ""
    assert graph.family == "joint-embedding"
    assert graph.presets == ("tiny",)


@pytest.mark.usefixtures("folder")
def test_null_deletes_and_says_where_nothing_is() -> None:
    text = "nodes: {loss: null, head: {hidden: null, act: null}}\nminimize: null\n"
    graph, problems = read(child(text))
    assert graph is not None
    assert list(graph.nodes) == ["encoder", "head"]
    assert graph.nodes["head"].settings == {"out": 128}
    assert graph.minimize == {}
    assert [(p.code, p.severity, p.span.text[p.span.column - 1 :][:3]) for p in problems] == [
        ("W021", "warning", "act")
    ]


@pytest.mark.usefixtures("folder")
def test_another_type_replaces_the_node() -> None:
    graph = graph_of(child("nodes: {loss: {use: koleo, in: encoder}, head: {use: projector}}\n"))
    assert graph.nodes["loss"].settings == {}
    assert graph.nodes["head"].settings["out"] == 128


@pytest.mark.usefixtures("folder")
def test_in_replaces_whole() -> None:
    graph = graph_of(child("nodes: {head: {in: {y: encoder}}}\n"))
    assert list(graph.nodes["head"].inputs) == ["y"]


@pytest.mark.usefixtures("folder")
def test_a_preset_lies_over_parent_and_file() -> None:
    name = child("vars: {dim: 64}\npresets: {tiny: {nodes: {loss: {temperature: 0.5}}}}\n")
    assert graph_of(name).nodes["head"].settings["out"] == 64
    graph = graph_of(name, preset="tiny")
    assert graph.preset == "tiny"
    assert graph.nodes["head"].settings["out"] == 16
    assert graph.nodes["loss"].settings["temperature"] == 0.5
    assert (graph.train.steps, graph.train.epochs) == (10, None)


@pytest.mark.usefixtures("folder")
def test_set_lies_over_all() -> None:
    options = ["vars.dim=8", "nodes.head.hidden.1=7", "train.lr={peak: 1, base: null, per: null}"]
    graph = graph_of(child(""), preset="tiny", set=options)
    assert graph.nodes["head"].settings == {"hidden": [2048, 7], "out": 8}
    assert graph.train.lr.peak == 1
    same = graph_of(child(""), preset="tiny", set={"vars.dim": 8, "nodes.head.hidden.1": 7})
    assert same.nodes["head"].settings == graph.nodes["head"].settings


@pytest.mark.usefixtures("folder")
def test_each_value_remembers_what_wrote_it() -> None:
    name = child("nodes: {loss: {temperature: 0.2}}\n")
    document = graph_of(name, set=["nodes.head.out=3"]).document
    assert str(document.span("nodes", "loss", "temperature")) == "child.yaml:3:29"
    assert str(document.span("nodes", "loss", "in")) == "parent.yaml:10:28"
    span = document.span("nodes", "head", "out")
    assert (span.file, span.line, span.column, span.end_column) == ("--set", 0, 16, 17)
    assert span.text == "nodes.head.out=3"
    key = document.span("nodes", "head", "out", key=True)
    assert key.text[key.column - 1 : key.end_column - 1] == "out"
    assert document.note("nodes", "encoder", "arch") == "$arch is resnet50 at parent.yaml:6:24"
    missing = document.span("nodes", "loss", "nowhere", "deeper")
    assert str(missing) == "parent.yaml:10:3"  # the key of the nearest ancestor


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("setting", "code", "hint"),
    [
        ("nodes.los.temperature=1", "E024", "did you mean 'loss'?"),
        ("node.loss=1", "E024", "did you mean 'nodes'?"),
        ("vars.dmi=1", "E024", "did you mean 'dim'?"),
        ("nodes.head.hidden.2=1", "E024", "items: 0, 1"),
        ("nodes.head.hidden.x=1", "E024", "items: 0, 1"),
        ("presets.tiny=1", "E024", "keys: "),
        ("nodes.loss", "E023", ""),
        ("=1", "E023", ""),
        ("nodes..x=1", "E023", ""),
        ("nodes.loss.temperature=", "E023", "null deletes a key"),
        ("nodes.loss.temperature=[1", "E003", "end the list with ]"),
        ("nodes.loss.temperature={a: 1, a: 2}", "E006", "remove one of them"),
        ("nodes.loss.temperature=!!x 1", "E008", "remove it"),
        ("nodes.loss.temperature=$dmi", "E025", "did you mean 'dim'?"),
        ("train.epochs=many", "E041", ""),
        (".".join("a" * 60) + "=1", "E023", ""),
        ("train.lr=" + "[" * 60, "E010", ""),
    ],
)
def test_bad_settings(setting: str, code: str, hint: str) -> None:
    problems = errors_of(problems_of(child(""), set=[setting]))
    assert [problem.code for problem in problems] == [code]
    assert problems[0].span.file == "--set"
    assert hint in problems[0].help


@pytest.mark.usefixtures("folder")
def test_unknown_preset() -> None:
    graph, problems = read(child(""), preset="tinny")
    assert graph is not None
    assert graph.preset is None
    assert [(p.code, p.help, p.span.text) for p in problems] == [
        ("E022", "did you mean 'tiny'?", "tinny")
    ]


def test_variables_refer_to_variables_and_keep_their_kind() -> None:
    graph = graph_of(
        {
            "sslgraph": 1,
            "vars": {"a": "$b", "b": [1, "$c"], "c": 0.5},
            "nodes": {"n": {"use": "x", "in": "batch.image", "s": "$a", "t": ["$c"], "u": "a$c"}},
        }
    )
    assert graph.nodes["n"].settings == {"s": [1, 0.5], "t": [0.5], "u": "a$c"}


def test_variables_can_not_be_a_bomb() -> None:
    wide = {f"v{i}": [f"$v{i + 1}"] * 10 for i in range(9)} | {"v9": 1}
    long = {f"v{i}": f"$v{i + 1}" for i in range(5000)} | {"v5000": 1}
    deep = {f"v{i}": [f"$v{i + 1}"] for i in range(39)} | {"v39": [[1]]}
    node = {"n": {"use": "x", "in": "batch.image", "s": "$v0"}}
    codes = []
    for variables in (wide, long, deep):
        _, problems = read({"sslgraph": 1, "vars": variables, "nodes": node})
        codes.append(errors_of(problems)[0].code)
    assert codes == ["E010", "E026", "E010"]


def test_what_is_written_reads_back_equal(folder: Path) -> None:
    for options in ({}, {"preset": "tiny"}, {"set": ["vars.dim=9"]}):
        graph = graph_of("parent.yaml", **options)
        (folder / "again.yaml").write_text(graph.document.text)
        again = graph_of("again.yaml")
        assert again.train == graph.train
        assert again.document.text == graph.document.text
        for name, node in graph.nodes.items():
            assert again.nodes[name].settings == node.settings
            assert again.nodes[name].inputs == node.inputs


def test_what_is_gone_already_may_be_deleted_again(tmp_path: Path) -> None:
    """By a parent's preset after the child did, or by a child's preset where the parent's sets."""
    parent = (
        "sslgraph: 1\nname: parent\nnodes:\n  views: {use: augment, in: batch.image, views: 2}\n"
        "train: {optimizer: lars, form: post}\n"
        "presets: {tiny: {nodes: {views: {size: 32}}, train: {form: null}}}\n"
    )
    child = (
        "sslgraph: 1\nname: child\nextends: parent.yaml\n"
        "train: {optimizer: sgd, form: null}\n"
        "presets: {tiny: {nodes: {views: {size: null}}}}\n"
    )
    (tmp_path / "parent.yaml").write_text(parent)
    (tmp_path / "child.yaml").write_text(child)
    graph, problems = read(tmp_path / "child.yaml", preset="tiny")
    assert graph is not None
    assert [p for p in problems if p.code == "W021"] == []
    assert "size" not in graph.nodes["views"].settings
    (tmp_path / "child.yaml").write_text(child.replace("size: null", "sizes: null"))
    _, problems = read(tmp_path / "child.yaml", preset="tiny")
    assert [p.code for p in problems if p.code == "W021"] == ["W021"]
