"""How the command fails: one line for what is known, a traceback for what is not."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sslgraph.cli import main
from sslgraph.cli.failures import Commands
from tests.cli.conftest import Command


def failing(failure: BaseException) -> click.Group:
    @click.group(cls=Commands)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        raise failure

    return group


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("chek", "no command 'chek': did you mean 'check'?"),
        ("simclr", "'simclr' is a method, not a command: sslgraph run simclr"),
        ("my.yaml", "'my.yaml' is a method, not a command: sslgraph run my.yaml"),
        (
            "zzz",
            "no command 'zzz'; the commands are run, check, prove, list, show, diff, draw, "
            "describe, nodes, new, schema",
        ),
    ],
)
def test_an_unknown_command_gets_a_remedy(command: Command, word: str, text: str) -> None:
    result = command(word)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {text}"


def test_alone_it_prints_its_help(command: Command) -> None:
    assert command().stdout == command("--help").stdout == command("-h").stdout
    assert command().exit_code == 0
    assert "sslgraph run simclr --preset tiny" in command().stdout


@pytest.mark.parametrize("name", sorted(main.commands))
def test_each_help_has_an_example(command: Command, name: str) -> None:
    assert f"    sslgraph {name}" in command(name, "--help").stdout.replace("\n  ", "\n    ")


def test_the_version_names_what_results_depend_on(command: Command) -> None:
    assert command("--version").stdout.startswith("sslgraph 0.")
    assert "torch" in command("--version").stdout


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_trouble_of_the_machine_is_one_line(failure: OSError, text: str) -> None:
    result = CliRunner().invoke(failing(failure), ["work"])
    assert (result.exit_code, result.stderr) == (1, f"sslgraph: {text}\n")


@pytest.mark.parametrize(
    "failure", [KeyError("lost"), FileNotFoundError(errno.ENOENT, "No such file", "x")]
)
def test_what_nobody_foresaw_is_raised_and_asks_for_a_report(failure: Exception) -> None:
    result = CliRunner().invoke(failing(failure), ["work"])
    assert result.exception is failure
    assert failure.__notes__[0].startswith("Unless it comes from a node type of your own, this is")


def test_ctrl_c_is_one_line() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["work"])
    assert (result.exit_code, result.stderr) == (130, "\ninterrupted\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    program = "import time, sys; time.sleep(1); from sslgraph.cli import main; main(['list'])"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--help"]])
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sslgraph", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "sslgraph: No space left on device\n")
