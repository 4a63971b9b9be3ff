"""What the command says when it can't do what it was asked, and what it exits with.

0 done - 1 a problem in what was given - 2 wrong usage - 3 training stopped by numbers that are not
finite - 75 stopped on request and saved - 130 interrupted. `diff` exits as the program of that name
does: 0 equal - 1 different - 2 can't compare. What nobody foresaw stays a traceback.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

import click

from sslgraph import __version__
from sslgraph.cli.output import print_problems
from sslgraph.errors import GraphError
from sslgraph.files import WriteError
from sslgraph.loading import shipped_methods
from sslgraph.registry import NodeFileError

EXIT_INTERRUPTED_BY_USER = 130

# Troubles of the machine, not of the program. A file that is missing is not among them: a command
# that opens a file says itself what is wrong with it.
_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "ENOSPC", "EDQUOT", "EROFS", "EIO", "EFBIG"),
        *("EMFILE", "ENFILE", "ENAMETOOLONG"),
    )
    if hasattr(errno, name)
}


class Commands(click.Group):
    """The group of all commands, with one way to fail."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a word that is none gets a remedy."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(self._unknown(ctx, args[0]), ctx)
        return super().resolve_command(ctx, args)

    def _unknown(self, ctx: click.Context, word: str) -> str:
        if word in shipped_methods() or word.endswith((".yaml", ".yml")):
            return f"'{word}' is a method, not a command: sslgraph run {word}"
        names = self.list_commands(ctx)
        near = get_close_matches(word, names, n=1, cutoff=0.5)
        if near:
            return f"no command '{word}': did you mean '{near[0]}'?"
        return f"no command '{word}'; the commands are {', '.join(names)}"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a user meets them."""
        return list(self.commands)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program; what goes wrong in a known way becomes a text and an exit code."""
        try:
            return super().main(*args, **extra)
        except GraphError as failure:
            print_problems(failure.problems, stderr=True)
            sys.exit(1)
        except (NodeFileError, WriteError) as failure:
            fail(str(failure))
        except Exception as failure:
            if isinstance(failure, OSError) and failure.errno in _OF_THE_MACHINE:
                fail(_os_text(failure))
            failure.add_note(_report_it())
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; stop quietly where the user or a reader of the output has left."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            sys.exit(EXIT_INTERRUPTED_BY_USER)
        except BrokenPipeError:
            _close_stdout()
            sys.exit(0)


def fail(text: str, code: int = 1) -> NoReturn:
    """Say in one line what is wrong and exit."""
    click.echo(f"sslgraph: {text}", err=True)
    sys.exit(code)


def version_text() -> str:
    """The version, and of what its results depend on."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "missing"
    return f"sslgraph {__version__} (Python {platform.python_version()}, torch {torch})"


def _report_it() -> str:
    return (
        "Unless it comes from a node type of your own, this is a fault of sslgraph: please report "
        f"it with the text above and this line: {version_text()}, {platform.platform()}"
    )


def _os_text(failure: OSError) -> str:
    where = f"{failure.filename}: " if failure.filename else ""
    return f"{where}{failure.strerror or failure}"


def _close_stdout() -> None:
    """Let the interpreter flush into nowhere at exit, since the reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
