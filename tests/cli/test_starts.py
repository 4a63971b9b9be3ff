"""`sslgraph new` and the files that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sslgraph
from sslgraph.loading import shipped_methods
from tests.cli.conftest import Command

MODELINE = "# yaml-language-server: $schema=sslgraph.schema.json"


def test_a_copy_keeps_every_comment_and_says_what_to_do_next(command: Command) -> None:
    result = command("new", "mine", "--from", "simclr")
    assert result.exit_code == 0
    assert result.stdout == (
        "wrote   mine.yaml\n"
        "wrote   sslgraph.schema.json   (for editors)\n"
        "next    sslgraph check mine.yaml\n"
        "        sslgraph draw mine.yaml\n"
        "        sslgraph run mine.yaml --preset tiny\n"
    )
    original = shipped_methods()["simclr"].read_text(encoding="utf-8").splitlines()
    copied = Path("mine.yaml").read_text(encoding="utf-8").splitlines()
    assert copied[0] == MODELINE
    changed = {new for old, new in zip(original, copied[1:], strict=True) if old != new}
    assert changed == {"name: mine", "title: A change of SimCLR"}


def test_a_short_form_extends_and_shows_what_can_be_changed(command: Command) -> None:
    assert command("new", "mine", "--from", "simclr", "--extends").exit_code == 0
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert "\nextends: simclr\n" in text
    graph, parent = sslgraph.load("mine.yaml"), sslgraph.load("simclr")
    assert graph.name == "mine"
    assert graph.document.data["nodes"] == parent.document.data["nodes"]
    uncommented = text.replace("\n# ", "\n").replace("\nWrite", "\n# Write")
    Path("all.yaml").write_text(uncommented.replace("\nThese", "\n# These"), encoding="utf-8")
    again = sslgraph.load("all.yaml")
    for part in ("vars", "nodes", "train"):
        assert again.document.data[part] == parent.document.data[part]


@pytest.mark.parametrize("short", [False, True])
def test_from_a_file_in_another_folder(command: Command, *, short: bool) -> None:
    Path("sub").mkdir()
    Path("toy.yaml").rename("sub/toy.yaml")
    Path("sub/child.yaml").write_text(
        "sslgraph: 1\nname: child\nextends: toy.yaml\nnodes: {projector: {out: 4}}\n",
        encoding="utf-8",
    )
    extends = ["--extends"] if short else []
    assert command("new", "mine", "--from", "sub/child.yaml", *extends).exit_code == 0
    graph = sslgraph.load("mine.yaml")
    assert graph.name == "mine"
    assert graph.nodes["projector"].settings == {"hidden": [16], "out": 4}


def test_titles_over_several_lines_are_replaced_whole(command: Command) -> None:
    text = Path("toy.yaml").read_text(encoding="utf-8")
    Path("toy.yaml").write_text(f"{text}title: >-\n  A long\n  title\n", encoding="utf-8")
    assert command("new", "mine.yaml", "--from", "toy.yaml").exit_code == 0
    assert sslgraph.load("mine.yaml").title == "A change of A long title"


@pytest.mark.parametrize(
    ("name", "source", "code", "said"),
    [
        ("toy", "simclr", 1, "sslgraph: toy.yaml exists: take another name, or remove it"),
        ("mine", "simclrr", 1, "sslgraph: no method 'simclrr': did you mean 'simclr'?"),
        (
            "simclr",
            "simclr",
            1,
            "sslgraph: 'simclr' is the name of a method that comes with sslgraph: "
            "take another name",
        ),
        (
            "a b",
            "simclr",
            2,
            "Error: Invalid value for 'NAME': 'a b' can't name a method: use letters, digits, "
            "'_' and '-'",
        ),
        (
            "../mine",
            "simclr",
            2,
            "Error: Invalid value for 'NAME': '../mine' can't name a method: use letters, digits, "
            "'_' and '-'",
        ),
    ],
)
def test_what_it_refuses(command: Command, name: str, source: str, code: int, said: str) -> None:
    before = Path("toy.yaml").read_text(encoding="utf-8")
    result = command("new", name, "--from", source)
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1] == said
    assert [path.name for path in Path().iterdir()] == ["toy.yaml"]
    assert Path("toy.yaml").read_text(encoding="utf-8") == before


def test_a_broken_source_is_reported_and_nothing_written(command: Command) -> None:
    Path("toy.yaml").write_text("sslgraph: 1\nnodes: {a: [1,\n", encoding="utf-8")
    result = command("new", "mine", "--from", "toy.yaml")
    assert result.exit_code == 1
    assert "error[E003]" in result.stderr
    assert [path.name for path in Path().iterdir()] == ["toy.yaml"]


def test_a_schema_that_is_there_is_kept(command: Command) -> None:
    Path("sslgraph.schema.json").write_text("{}", encoding="utf-8")
    assert command("new", "mine", "--from", "simclr").exit_code == 0
    assert json.loads(Path("sslgraph.schema.json").read_text(encoding="utf-8")) == {}


def test_what_is_proposed_can_be_typed_where_it_was_called(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLGRAPH_COMMAND", "tools/run")
    result = command("new", "mine", "--from", "simclr")
    assert "next    tools/run check mine.yaml\n" in result.stdout
