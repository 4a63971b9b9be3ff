"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sslgraph import registry
from sslgraph.cli import main
from sslgraph.limits import Place
from sslgraph.proving import PROPERTIES
from sslgraph.reading import parse
from sslgraph.tree import plain

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]


def block(word: str) -> str:
    """The one Python block that has a word."""
    found: list[str] = [text for text in PYTHON if word in text]
    assert len(found) == 1
    return found[0]


def test_the_interface_does_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(block("sslgraph.load("), scope)
    assert scope["features"].shape[:2] == (1, 16)
    shown = capsys.readouterr().out
    assert shown.startswith("[]\n")
    assert 'n["views"](batch_image, batch_index)' in shown


def test_the_unit_tests_pass() -> None:
    scope: dict[str, Any] = {}
    exec(block("def test_"), scope)
    tests = [value for name, value in scope.items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()


def test_the_own_node_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_nodes.py").write_text(block("class Standardize"), encoding="utf-8")
    try:
        exec(block("check_node"), {})
    finally:
        registry._declared.pop("standardize", None)


def test_the_proof_is_one_test_a_property() -> None:
    scope: dict[str, Any] = {}
    exec(block("node_tests"), scope)
    marks = [test.pytestmark[0].args for name, test in scope.items() if name.startswith("test_")]
    assert marks[0] == ("property", list(PROPERTIES))
    assert marks[1][0] == "property"
    (shown,) = [text for _, text in BLOCKS if text.startswith("$ sslgraph prove")]
    lines = shown.splitlines()[1:-1]
    assert {line.split()[0] for line in lines} <= set(PROPERTIES)


def test_the_report_is_the_one_of_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert run(main, ["new", "mine", "--from", "simclr"]).exit_code == 0
    text = Path("mine.yaml").read_text(encoding="utf-8")
    text = text.replace("    in: projector\n", "    in: encoder.tokens\n")
    Path("mine.yaml").write_text(text.replace("    hidden: [", "    hiden: ["), encoding="utf-8")
    result = run(main, ["check", "mine.yaml"])
    (shown,) = [text for _, text in BLOCKS if "error[E203]" in text]
    assert result.stderr + result.stdout == shown


def test_the_difference_is_the_one_of_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert run(main, ["new", "mine", "--from", "simclr"]).exit_code == 0
    text = Path("mine.yaml").read_text(encoding="utf-8")
    added = "  predictor: {use: predictor, in: projector, hidden: [512], out: $dim}\n"
    text = text.replace("  loss:\n", added + "  loss:\n").replace(
        "in: projector\n", "in: predictor\n"
    )
    Path("mine.yaml").write_text(
        text.replace("temperature: 0.1}", "temperature: 0.2}"), encoding="utf-8"
    )
    result = run(main, ["diff", "simclr", "mine.yaml", "-o", "diff.svg"])
    (shown,) = [text for _, text in BLOCKS if text.startswith("simclr -> mine.yaml")]
    assert (result.exit_code, result.stdout) == (1, shown)
    assert Path("diff.svg").exists()


def test_the_nodes_of_teachers_and_memories_are_sound() -> None:
    _, shown = [text for language, text in BLOCKS if language == "yaml"]
    tree, problems = parse(f"nodes:\n{shown}", Place("README.md"))
    assert tree is not None
    assert not problems
    nodes: Any = plain(tree)
    for name, node in nodes["nodes"].items():
        declared = registry.find(node["use"])
        settings = {key: value for key, value in node.items() if key not in ("use", "in", "of")}
        assert settings.keys() <= declared.config.model_fields.keys(), name
        if "run" not in settings:  # a finished run is the reader's own
            declared.config.model_validate(settings)


def test_the_lines_of_the_method_are_those_of_the_file() -> None:
    shown, _ = [text for language, text in BLOCKS if language == "yaml"]
    method = (ROOT / "methods" / "simclr.yaml").read_text(encoding="utf-8")
    there = {_bare(line) for line in method.splitlines()}
    for line in shown.splitlines():
        bare = _bare(line)
        if bare and bare != "..." and "&" not in bare and "per: none" not in bare:
            assert bare in there, line


def _bare(line: str) -> str:
    return line.partition("#")[0].strip()
