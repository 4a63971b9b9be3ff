"""`sslgraph check`: reports word for word, exit codes, JSON, colour."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from sslgraph.cli import main
from sslgraph.cli.output import coloured
from sslgraph.errors import Problem, Span, render
from sslgraph.loading import shipped_methods
from tests.cli.conftest import Command


def edited(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def test_nothing_wrong_is_one_line_with_the_count_of_parameters(command: Command) -> None:
    result = command("check", "toy.yaml")
    assert result.exit_code == 0
    # timm's test_resnet has 469 k, the projector 96 x 16 + 16 + 2 x 16 + 16 x 8 + 8
    pattern = r"toy\.yaml: nothing wrong: 4 nodes, \d+ k parameters, checked in \d+\.\d s\n"
    assert re.fullmatch(pattern, result.output)


def test_what_a_loss_compares_is_said(command: Command) -> None:
    edited(
        Path("toy.yaml"),
        (
            "loss: {use: nt_xent, in: projector}",
            "still: {use: stop_grad, in: projector}\n"
            "  guess: {use: predictor, in: projector, hidden: [8], out: 8}\n"
            "  loss: {use: cosine_regression, in: {prediction: guess, target: still}, reduce: sum}",
        ),
    )
    output = command("check", "toy.yaml", "--no-sizes").output
    assert output.splitlines()[1:] == ["  loss: 2 pairs (cross)"]
    data = command("check", "toy.yaml", "--no-sizes", "--format", "json").stdout
    assert json.loads(data)[0]["pairs"] == {"loss": 2}
    plan = command("show", "toy.yaml", "--plan").output.splitlines()
    assert [line.split() for line in plan[-5:]] == [
        [],
        ["loss", "compares", "views"],
        ["loss", "2", "pairs", "(cross)", "prediction", "->", "target"],
        ["views.0", "->", "views.1"],
        ["views.1", "->", "views.0"],
    ]


def test_without_sizes_it_says_so(command: Command) -> None:
    result = command("check", "toy.yaml", "--no-sizes")
    pattern = r"toy\.yaml: nothing wrong: 4 nodes, sizes not checked, checked in \d+\.\d s\n"
    assert re.fullmatch(pattern, result.output)


def test_all_mistakes_stand_in_one_report(command: Command) -> None:
    edited(Path("toy.yaml"), ("hidden:", "hiden:"), ("in: projector", "in: projecter"))
    result = command("check", "toy.yaml")
    assert result.exit_code == 1
    assert result.output == (
        "toy.yaml:6:54: error[E102]: unknown setting 'hiden'\n"
        "  |\n"
        "6 |   projector: {use: projector, in: encoder.embedding, hiden: [16], out: 8}\n"
        "  |                                                      ^^^^^\n"
        "  = help: did you mean 'hidden'?\n"
        "\n"
        "toy.yaml:7:28: error[E201]: no node named 'projecter'\n"
        "  |\n"
        "7 |   loss: {use: nt_xent, in: projecter}\n"
        "  |                            ^^^^^^^^^ did you mean 'projector'?\n"
        "\n"
        "2 problems in toy.yaml (2 errors)\n"
    )


def test_warnings_alone_exit_with_0(command: Command) -> None:
    edited(Path("toy.yaml"), ("nodes:", "vars: {unused: 1}\nnodes:"))
    result = command("check", "toy.yaml", "--no-sizes")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "1 problem in toy.yaml (1 warning)"


def test_several_files_are_judged_each(command: Command) -> None:
    result = command("check", "toy.yaml", "none.yaml", "--no-sizes")
    assert result.exit_code == 1
    assert result.output.splitlines()[0].startswith("toy.yaml: nothing wrong")
    assert result.output.splitlines()[-1] == "1 problem in none.yaml (1 error)"


@pytest.mark.parametrize(
    ("arguments", "report"),
    [
        (
            ["simclrr"],
            "simclrr: error[E001]: no method or file 'simclrr'\n"
            "  = help: did you mean 'simclr'?\n\n1 problem in simclrr (1 error)\n",
        ),
        (
            ["toy.yaml", "--preset", "tiny"],
            "--preset: error[E022]: no preset 'tiny'\n |\n | tiny\n | ^^^^\n"
            " = help: presets: none\n"
            "\n1 problem in toy.yaml (1 error)\n",
        ),
        (
            ["toy.yaml", "--set", "nodes.los.temperature=1"],
            "--set: error[E024]: no node 'los'\n |\n | nodes.los.temperature=1\n |       ^^^\n"
            " = help: did you mean 'loss'?\n\n1 problem in toy.yaml (1 error)\n",
        ),
        (
            ["toy.yaml", "--set", "temperature"],
            "--set: error[E023]: not 'path=value'\n |\n | temperature\n | ^^^^^^^^^^^\n"
            " = expected: such as --set nodes.loss.temperature=0.2\n\n"
            "1 problem in toy.yaml (1 error)\n",
        ),
    ],
)
def test_what_is_wrong_on_the_command_line(
    command: Command, arguments: list[str], report: str
) -> None:
    result = command("check", *arguments)
    assert result.exit_code == 1
    assert result.output.replace("  = ", " = ") == report.replace("  = ", " = ")


def test_a_missing_file_lists_what_there_is_but_no_hidden_files(command: Command) -> None:
    Path(".hidden.yaml").write_text("a: 1", encoding="utf-8")
    output = command("check", "qqqqqqqq.yaml").output
    first, second = output.splitlines()[:2]
    assert first == "qqqqqqqq.yaml: error[E001]: no file 'qqqqqqqq.yaml'"
    listed = second.removeprefix(" = help: files and methods: ").split(", ")
    assert listed[0] == "toy.yaml"
    assert listed[1:-1] == list(shipped_methods())[: len(listed) - 2]
    assert listed[-1] == "..."


def test_own_node_types(command: Command) -> None:
    Path("mine.py").write_text(
        "import sslgraph\n"
        "class Twice(sslgraph.Node, use='cli_test_twice'):\n"
        "    '''Twice the input.'''\n"
        "    x = sslgraph.In('T', '...')\n"
        "    y = sslgraph.Out('T', '...')\n"
        "    def forward(self, x):\n"
        "        return 2 * x\n",
        encoding="utf-8",
    )
    edited(
        Path("toy.yaml"),
        ("in: projector}", "in: twice}\n  twice: {use: cli_test_twice, in: projector}"),
    )
    assert command("check", "toy.yaml", "--nodes", "mine.py").exit_code == 0
    listed = command("nodes", "cli_test_twice", "--nodes", "mine.py").output
    assert listed.splitlines()[1].split() == ["cli_test_twice", "own", "Twice", "the", "input."]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "sslgraph: no file mine.py: give the Python file that declares your node types\n"),
        ("x = 1\ndef f(:\n", "sslgraph: mine.py:2: SyntaxError: invalid syntax\n"),
        ("\nimport nothing_there\n", "sslgraph: mine.py:2: ModuleNotFoundError: "),
        ("x = 1\n", "sslgraph: mine.py declares no node type: write a class such as "),
    ],
)
def test_a_file_of_node_types_that_fails(command: Command, text: str | None, said: str) -> None:
    if text is not None:
        Path("mine.py").write_text(text, encoding="utf-8")
    result = command("check", "toy.yaml", "--nodes", "mine.py")
    assert result.exit_code == 1
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == 1


def test_json_is_for_other_programs(command: Command) -> None:
    edited(Path("toy.yaml"), ("hidden:", "hiden:"))
    result = command("check", "toy.yaml", "--no-sizes", "--format", "json")
    assert result.exit_code == 1
    [verdict] = json.loads(result.stdout)
    assert (verdict["source"], verdict["errors"], verdict["warnings"]) == ("toy.yaml", 1, 0)
    [problem] = verdict["problems"]
    assert (problem["code"], problem["severity"]) == ("E102", "error")
    assert (problem["file"], problem["line"], problem["column"]) == ("toy.yaml", 6, 54)
    assert problem["help"] == "did you mean 'hidden'?"


def test_a_file_can_neither_use_markup_nor_steer_the_terminal(command: Command) -> None:
    edited(Path("toy.yaml"), ("hidden:", '"[red]\\e[2J":'))
    output = command("check", "toy.yaml", "--no-sizes").output
    assert "[red]" in output
    assert "\x1b" not in output


def test_colour_changes_no_word() -> None:
    span = Span("a.yaml", 3, 5, 8, "    key: 1")
    problem = Problem("E102", "wrong", span, under="what", expected="x", notes=("n",), help="h")
    text = coloured(problem)
    assert text.plain == render(problem)
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["error[E102]"] == styles["^^^ what"] == "bold red"
    assert styles["3 |"] == "blue"


def test_no_color_is_obeyed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def output() -> str:
        return CliRunner().invoke(main, ["check", "none.yaml"], color=True).output

    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;31m" in output()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in output()
