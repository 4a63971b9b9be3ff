"""`list`, `show`, `nodes`, `describe` and `draw`: what they print."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result

import sslgraph
from sslgraph import registry
from sslgraph.describe.nodes import node_page
from sslgraph.loading import shipped_methods
from tests.cli.conftest import TOY, Command


def test_list_has_a_line_for_each_method(command: Command) -> None:
    lines = command("list").stdout.splitlines()
    assert lines[0].split() == ["name", "title", "family", "presets", "summary"]
    assert [line.split()[0] for line in lines[1:]] == list(shipped_methods())
    assert [line for line in lines if line != line.rstrip()] == []


def test_tables_fit_the_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (["list"], ["nodes"], ["describe", "augment"], ["show", "toy.yaml", "--plan"]):
        output = command(*arguments).stdout
        assert max(map(len, output.splitlines())) <= 80, arguments


def test_show_prints_what_is_in_force_and_reads_back(command: Command) -> None:
    text = command("show", "toy.yaml", "--set", "nodes.projector.out=4").stdout
    Path("again.yaml").write_text(text, encoding="utf-8")
    assert sslgraph.load("again.yaml").nodes["projector"].settings["out"] == 4
    assert command("show", "again.yaml").stdout == text


def test_show_says_what_reading_found(command: Command) -> None:
    Path("toy.yaml").write_text(TOY.replace("steps: 2", "stps: 2"), encoding="utf-8")
    result = command("show", "toy.yaml")
    assert result.exit_code == 1
    assert "name: toy" in result.stdout
    assert "error[E040]" in result.stderr


def test_show_plan_has_shapes_and_parameters(command: Command) -> None:
    lines = command("show", "toy.yaml", "--plan").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["node", "views", "encoder", "projector", "loss"]
    assert lines[1].split(None, 3)[2:] == ["batch.image", "image[2 B 3 24 24]"]
    # 96 x 16 + 16, 2 x 16 of the batch norm, 16 x 8 + 8
    assert lines[3].split() == [
        *("projector", "projector", "encoder.embedding", "embedding[2", "B", "8]", "1.72", "k")
    ]
    assert lines[4].split()[-1] == "minimised"


def test_show_code_is_python_that_names_every_node(command: Command) -> None:
    code = command("show", "toy.yaml", "--code").stdout
    compile(code, "code", "exec")
    for name in ("views", "encoder", "projector", "loss"):
        assert f'n["{name}"](' in code


def test_nodes_are_found_by_word_and_by_pattern(command: Command) -> None:
    def found(*arguments: str) -> set[str]:
        return {line.split()[0] for line in command("nodes", *arguments).stdout.splitlines()[1:]}

    assert found() == set(registry.names())
    assert found("LOSSES") >= {"nt_xent"}
    assert found("pro*") == {"projector", "prototypes"}
    result = command("nodes", "projektor")
    assert result.exit_code == 1
    assert result.stderr == "sslgraph: 'projektor' finds no node type; did you mean 'projector'?\n"


@pytest.mark.parametrize("use", registry.SHIPPED)
def test_every_node_type_has_a_page(command: Command, use: str) -> None:
    result = command("describe", use)
    assert result.exit_code == 0, result.output
    declared = registry.find(use)
    assert result.stdout.startswith(f"{use}: {declared.summary}")
    fields = [info.alias or name for name, info in declared.config.model_fields.items()]
    for name in (*declared.inputs, *declared.outputs, *fields):
        assert f"\n  {name} " in result.stdout
    assert [setting.name for setting in node_page(use).settings if not setting.meaning] == []


def test_the_page_of_a_head(command: Command) -> None:
    text = command("describe", "projector").stdout
    for line in (
        "  x  embedding or tokens  ... D",
        "  y  as x  ... out",
        "  act         relu, gelu or tanh ",
        "  norm        batch or none ",
        "  init        number > 0 ",
        " [2048]   Widths of the hidden layers; [] is one",
        "    projector: {use: projector, in: encoder.embedding, hidden: [8], out: 4}",
    ):
        assert line in text


def test_the_page_of_a_method(command: Command) -> None:
    text = command("describe", "toy.yaml").stdout
    assert (
        "Graph\n"
        "  batch\n"
        "  `- views  augment\n"
        "     `- encoder\n"
        "        `- projector\n"
        "           `- loss  nt_xent\n"
    ) in text
    for line in (
        "  embedding  encoder.embedding",
        "  optimizer      AdamW",
        "  learning rate  0.001, then half a cosine to 0",
        "  weight decay   none",
        "  length         2 steps",
        "  batch          8 samples",
    ):
        assert f"\n{line}\n" in text


def test_describe_names_what_it_could_have_been(command: Command) -> None:
    result = command("describe", "projektor")
    assert result.exit_code == 1
    assert result.stderr == (
        "sslgraph: no node type or method 'projektor': did you mean 'projector'?\n"
    )


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.svg", b"<?xml"), ("a.dot", b"digraph"), ("a.mmd", b"flowchart"), ("a.png", b"\x89PNG")],
)
def test_draw_writes_the_format_of_the_suffix(command: Command, name: str, start: bytes) -> None:
    result = command("draw", "toy.yaml", "-o", name, "--no-sizes")
    assert (result.exit_code, result.output) == (0, f"wrote   {name}\n")
    assert start in Path(name).read_bytes()[:400]


def test_draw_without_a_file_names_it_after_the_method(command: Command) -> None:
    assert command("draw", "toy.yaml", "--no-sizes").output == "wrote   toy.svg\n"
    assert Path("toy.svg").stat().st_size > 1000


def drawn(command: Command, old: str, new: str) -> Result:
    text = Path("toy.yaml").read_text(encoding="utf-8").replace(old, new)
    Path("toy.yaml").write_text(text, encoding="utf-8")
    return command("draw", "toy.yaml", "-o", "a.dot")


def test_draw_refuses_wrong_wires_and_shows_wrong_sizes(command: Command) -> None:
    result = drawn(command, "test_resnet", "test_vit, image_size: 32")
    assert result.exit_code == 1
    assert "error[E404]" in result.stderr
    assert Path("a.dot").exists()
    Path("a.dot").unlink()
    result = drawn(command, "in: views", "in: vews")
    assert result.exit_code == 1
    assert "did you mean 'views'?" in result.stderr
    assert not Path("a.dot").exists()


def test_draw_knows_its_formats(command: Command) -> None:
    result = command("draw", "toy.yaml", "-o", "toy.jpg")
    assert result.exit_code == 1
    assert result.stderr.startswith("sslgraph: toy.jpg: no format '.jpg'; a picture is one of .svg")
