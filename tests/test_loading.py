"""From a name, a path or a mapping to a graph, or to a problem and never to a foreign traceback."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sslgraph.errors import GraphError, render
from sslgraph.loading import load, read, shipped_methods

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("preset", [None, "tiny"])
@pytest.mark.parametrize("name", shipped_methods())
def test_shipped_methods_read_without_a_word(name: str, preset: str | None) -> None:
    graph, problems = read(name, preset=preset)
    assert not problems, "\n".join(map(render, problems))
    assert graph is not None
    assert graph.name == name
    assert max(map(len, graph.document.text.splitlines())) <= 100
    assert pickle.loads(pickle.dumps(graph)).document == graph.document


def test_simclr_as_published() -> None:
    # google-research/simclr: lr 0.3 x 4096 / 256, weight decay 1e-6, 1000 epochs, temperature 0.1
    graph = load("simclr")
    assert graph.train.lr.scaled(graph.train.batch_size) == pytest.approx(4.8)
    assert (graph.train.optimizer, graph.train.form) == ("lars", "pre")
    assert (graph.train.weight_decay, graph.train.epochs) == (1e-6, 1000)
    assert graph.nodes["loss"].settings == {"temperature": 0.1, "reduce": "sum"}
    head = graph.nodes["projector"].settings
    assert (head["hidden"], head["out"], head["bias"], head["end"]) == (
        [2048],
        128,
        False,
        "bn_scale",
    )


def test_tiny_has_the_wiring_of_the_method() -> None:
    whole, tiny = load("simclr"), load("simclr", preset="tiny")
    for name, node in whole.nodes.items():
        assert tiny.nodes[name].use == node.use
        assert tiny.nodes[name].inputs == node.inputs


def test_load_raises_what_read_finds() -> None:
    with pytest.raises(GraphError) as caught:
        load("simclr", preset="tny", set=["nodes.los.temperature=1"])
    assert [problem.code for problem in caught.value.problems] == ["E022", "E024"]
    load({"sslgraph": 1, "vars": {"a": 1}, "nodes": {"a": {"use": "b", "in": "batch.image"}}})


def test_a_graph_is_built_of_what_is_sound() -> None:
    graph, problems = read(
        {
            "sslgraph": 1,
            "nodes": {
                "a": {"in": "batch.image", "of": "b", "train": False},
                "c": {"use": "d", "in": {"x": "a b", "y": ["a.0", "a.1:"]}, "size": "$none"},
            },
            "minimize": {"c": "much", "a": 1},
            "outputs": {"x": "a..", "y": "a"},
        }
    )
    assert graph is not None
    assert [p.code for p in problems] == ["E025", "E034", "E035", "E041", "E035"]
    assert graph.nodes["a"].use == ""
    assert graph.nodes["a"].of == ("b",)
    assert graph.nodes["a"].train is not None
    assert not graph.nodes["a"].train.enabled
    assert graph.nodes["c"].inputs["x"] == ()
    assert [r.path for r in graph.nodes["c"].inputs["y"]] == [
        ("nodes", "c", "in", "y", 0),
        ("nodes", "c", "in", "y", 1),
    ]
    assert graph.minimize == {"a": 1.0}
    assert list(graph.outputs) == ["y"]


def test_a_mapping_has_places_too() -> None:
    _, problems = read({"sslgraph": 1, "nodes": {"a": {"use": "b"}}, "train": {"epochs": "ten"}})
    assert render(problems[0]) == (
        "<dict>: error[E041]: bad value for 'epochs'\n"
        " |\n"
        " | train.epochs: 'ten'\n"
        " |               ^^^^^\n"
        " = expected: a whole number\n"
        " = got     : ten"
    )


def circle() -> dict[str, Any]:
    data: dict[str, Any] = {"sslgraph": 1}
    data["vars"] = data
    return data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"a": object()}, "E013"),
        ({"a": float("nan")}, "E013"),
        ({1: 2}, "E007"),
        ({"a": b"x"}, "E013"),
        ({"a": {1, 2}}, "E013"),
        (circle(), "E010"),
        ({"a": [0] * 200_000}, "E010"),
        ({"a": "x" * 20_000}, "E010"),
    ],
)
def test_mappings_that_are_no_graph(data: dict[str, Any], code: str) -> None:
    graph, problems = read(data)
    assert graph is None
    assert problems[0].code == code


def test_missing_files_and_near_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("sslgraph: 1\n")
    Path("folder.yaml").mkdir()
    os.mkfifo("pipe.yaml")
    expected = {
        "simclrr": "did you mean 'simclr'?",
        "mien.yaml": "did you mean 'mine.yaml'?",
        "folder.yaml": "files and methods: ",
        "pipe.yaml": "",
        "no/such/file.yaml": "files and methods: ",
        "mine.yaml/x.yaml": "",
        "a\0b": "",
        "x" * 5000: "",
        "": "",
    }
    for name, hint in expected.items():
        graph, problems = read(name)
        assert graph is None
        assert [problem.code for problem in problems] == ["E001"]
        assert hint in problems[0].help
        assert "\0" not in render(problems[0])


def test_extends_leaves_text_files_alone(tmp_path: Path) -> None:
    for target in ("/etc/passwd", "../secret.txt", "https://example.org/x.yaml", "3", "[a]"):
        path = tmp_path / "a.yaml"
        path.write_text(f"sslgraph: 1\nextends: {target}\n")
        graph, problems = read(path)
        assert graph is None
        assert [problem.code for problem in problems] == ["E020"]


def test_a_shipped_method_can_be_extended(tmp_path: Path) -> None:
    path = tmp_path / "warmer.yaml"
    path.write_text("sslgraph: 1\nextends: simclr\nvars: {temperature: 0.5}\n")
    graph = load(path)
    assert graph.name == "warmer"
    assert graph.nodes["loss"].settings["temperature"] == 0.5


def test_reading_needs_neither_torch_nor_networkx(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("sslgraph: 1\nnodes: {a: {use: b, in: $c}\n")
    code = (
        "import sys; from sslgraph.loading import read; from sslgraph.errors import render\n"
        "print(*map(render, read('bad.yaml')[1])); read('simclr', preset='tiny')\n"
        "print(sorted({'torch', 'networkx', 'timm', 'kornia', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("bad.yaml:2:8: error[E003]")
    assert done.stdout.endswith("[]\n")
