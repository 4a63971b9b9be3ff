"""`sslgraph diff`: what it prints and draws, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import sslgraph
from sslgraph.cli import main
from sslgraph.drawing import extract
from tests.cli.conftest import TOY, Command

SVG = "{http://www.w3.org/2000/svg}"
OTHER = (
    ("name: toy", "name: other"),
    ("hidden: [16], out: 8}", "hidden: [16], out: 4}"),
    ("loss: {use: nt_xent, in: projector}", "loss: {use: nt_xent, in: predictor}"),
    ("nodes:\n", "nodes:\n  predictor: {use: predictor, in: projector, hidden: [4], out: 4}\n"),
    ("steps: 2", "steps: 3"),
)


@pytest.fixture
def other(command: Command) -> str:
    """The toy with a predictor, fewer dimensions and one more step."""
    text = TOY
    for old, new in OTHER:
        assert old in text
        text = text.replace(old, new)
    Path("other.yaml").write_text(text, encoding="utf-8")
    return "other.yaml"


def test_equal_methods_are_one_line_and_exit_with_0(command: Command) -> None:
    result = command("diff", "toy.yaml", "toy.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "toy.yaml and toy.yaml: no difference\n"


def test_a_difference_is_a_summary_and_exits_with_1(command: Command, other: str) -> None:
    result = command("diff", "toy.yaml", other)
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout == (
        "toy.yaml -> other.yaml: 1 node added, 1 input rewired, 1 setting changed, "
        "1 value of the run changed\n"
        "nodes\n"
        "  + predictor {use: predictor, in: projector, hidden: [4], out: 4}\n"
        "wires\n"
        "  ~ loss.x: projector -> predictor\n"
        "settings\n"
        "  ~ projector.out: 8 -> 4\n"
        "run\n"
        "  ~ train.steps: 2 -> 3\n"
    )


@pytest.mark.parametrize(
    ("arguments", "first", "change"),
    [
        (
            ["toy.yaml", "toy.yaml", "--set-b", "nodes.projector.out=4"],
            "toy.yaml -> toy.yaml --set nodes.projector.out=4: 1 setting changed",
            "  ~ projector.out: 8 -> 4",
        ),
        (
            ["toy.yaml", "toy.yaml", "--set", "nodes.projector.out=2", "--set-a", "train.steps=9"],
            "toy.yaml --set nodes.projector.out=2 --set train.steps=9 -> "
            "toy.yaml --set nodes.projector.out=2: 1 value of the run changed",
            "  ~ train.steps: 9 -> 2",
        ),
        (
            ["simclr", "simclr", "--preset-b", "tiny"],
            "simclr -> simclr --preset tiny: ",
            "  ~ train.optimizer:    lars -> adamw",
        ),
        (
            ["simclr", "simclr", "--preset", "tiny", "--set-b", "vars.dim=8"],
            "simclr --preset tiny -> simclr --preset tiny --set vars.dim=8: 1 setting changed",
            "  ~ projector.out: 64 -> 8",
        ),
    ],
)
def test_presets_and_values_may_be_given_for_one_side_or_both(
    command: Command, arguments: list[str], first: str, change: str
) -> None:
    result = command("diff", *arguments)
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(first)
    assert change in lines


def test_json_holds_everything(command: Command, other: str) -> None:
    result = command("diff", "toy.yaml", other, "--format", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "a": "toy.yaml",
        "b": "other.yaml",
        "equal": False,
        "added": [
            {
                "name": "predictor",
                "use": "predictor",
                "written": {"in": "projector", "hidden": [4], "out": 4},
            }
        ],
        "removed": [],
        "renamed": [],
        "wires": [
            {"node": "loss", "port": "x", "before": ["projector"], "after": ["predictor"]},
        ],
        "settings": [
            {
                "path": "nodes.projector.out",
                "before": {"data": 8, "default": False},
                "after": {"data": 4, "default": False},
            }
        ],
        "run": [
            {
                "path": "train.steps",
                "before": {"data": 2, "default": False},
                "after": {"data": 3, "default": False},
            }
        ],
        "literal": False,
    }
    assert json.loads(command("diff", "toy.yaml", "toy.yaml", "--format", "json").stdout)["equal"]


def test_colours_are_for_terminals(
    command: Command, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> str:
        return CliRunner().invoke(main, ["diff", "toy.yaml", other], color=True).stdout

    assert "\x1b[" not in command("diff", "toy.yaml", other).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = shown().splitlines()
    assert "  \x1b[32m+ predictor\x1b[0m {use: predictor" in lines[2]
    assert "  \x1b[33m~ loss.x:\x1b[0m projector" in lines[4]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown()


def test_a_control_character_does_not_reach_the_terminal(command: Command) -> None:
    text = TOY.replace("out: 8}", 'out: 8, weights: "a\\e[2Jb", "\\e[2J": 1}')
    Path("evil.yaml").write_text(text, encoding="utf-8")
    result = command("diff", "toy.yaml", "evil.yaml")
    assert "\x1b" not in result.stdout
    assert "  + projector.weights:" in result.stdout
    assert "  + projector.\\x1b[2J:" in result.stdout


BROKEN = {
    "text": ("nodes:\n", "nodes: [\n"),
    "key": ("steps: 2", "stps: 2"),
    "node": ("in: projector", "in: [3]"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("order", [("toy.yaml", "broken.yaml"), ("broken.yaml", "toy.yaml")])
def test_a_broken_file_is_reported_as_ever(
    command: Command, name: str, order: tuple[str, str]
) -> None:
    Path("broken.yaml").write_text(TOY.replace(*BROKEN[name]), encoding="utf-8")
    result = command("diff", *order, "-o", "x.svg")
    assert (result.exit_code, result.stdout) == (2, "")
    report = command("check", "broken.yaml").stdout
    assert result.stderr == report
    assert not Path("x.svg").exists()


def test_both_files_are_reported_at_once(command: Command) -> None:
    result = command("diff", "none.yaml", "simclrr")
    assert result.exit_code == 2
    assert "no file 'none.yaml'" in result.stderr
    assert "did you mean 'simclr'?" in result.stderr
    assert result.stderr.endswith("2 problems in none.yaml, simclrr (2 errors)\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset-a", "no"], "--preset: error[E022]: no preset 'no'"),
        (["--set-b", "nodes.los.x=1"], "--set: error[E024]: no node 'los'"),
        (["--nodes", "none.py"], "sslgraph: no file none.py"),
        (["-o", "x.jpg"], "sslgraph: x.jpg: no format '.jpg'"),
    ],
)
def test_what_can_not_be_done_exits_with_2(
    command: Command, arguments: list[str], said: str
) -> None:
    result = command("diff", "toy.yaml", "toy.yaml", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_wrong_settings_leave_a_comparison_as_written_but_no_picture(command: Command) -> None:
    Path("wrong.yaml").write_text(TOY.replace("hidden:", "hiden:"), encoding="utf-8")
    result = command("diff", "toy.yaml", "wrong.yaml")
    assert result.exit_code == 1
    assert result.stderr == "note: compared as written, since one has errors: see sslgraph check\n"
    assert "  - projector.hidden: [16]\n" in result.stdout
    assert "  + projector.hiden:  [16]\n" in result.stdout
    result = command("diff", "toy.yaml", "wrong.yaml", "-o", "x.svg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean 'hidden'?" in result.stderr
    assert not Path("x.svg").exists()


def test_the_picture_is_drawn_beside_the_summary(command: Command, other: str) -> None:
    result = command("diff", "toy.yaml", other, "-o", "x.svg")
    assert result.exit_code == 1
    assert result.stdout == command("diff", "toy.yaml", other).stdout
    assert result.stderr == "wrote   x.svg\n"
    root = ElementTree.parse("x.svg").getroot()
    written = [text.text for text in root.iter(f"{SVG}text")]
    assert {"+ predictor", "~ projector", "out: 8 -> 4", "loss", "~ run"} <= set(written)
    assert extract("x.svg") == sslgraph.load(other).document.text


def test_mistakes_in_sizes_are_no_hindrance(command: Command) -> None:
    text = TOY.replace("arch: test_resnet", "arch: test_vit, image_size: 32")
    Path("sizes.yaml").write_text(text, encoding="utf-8")
    assert "error[E404]" in command("check", "sizes.yaml").stdout
    result = command("diff", "toy.yaml", "sizes.yaml", "-o", "x.mmd")
    assert (result.exit_code, result.stderr) == (1, "wrote   x.mmd\n")
    assert "  ~ encoder.arch:       test_resnet -> test_vit\n" in result.stdout
    assert "test_vit" in Path("x.mmd").read_text(encoding="utf-8")


def test_help_says_what_it_exits_with(command: Command) -> None:
    text = " ".join(command("diff", "--help").stdout.split())
    assert "Exits with 0 if they are equal, with 1 if they differ, with 2 if they can't" in text
