"""What the commands print: plain text and tables; colour on a terminal, unless NO_COLOR."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sslgraph.errors import Problem, errors_of, render

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

PAGE = 100
_UNLIMITED = 10_000


def console(*, stderr: bool = False, piped_width: int = _UNLIMITED) -> Console:
    """A console that reads no markup in what it prints.

    Args:
        stderr: Whether it writes there.
        piped_width: Columns where the output is no terminal; tables then keep one line a row.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    known = stream.isatty() or "COLUMNS" in os.environ
    return Console(
        stderr=stderr,
        width=None if known else piped_width,
        markup=False,
        highlight=False,
        emoji=False,
    )


def printable(text: str) -> str:
    """The text with control characters spelled out, so that no file can steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def table(
    rows: Iterable[Sequence[str]], heads: Sequence[str] = (), *, on: Console, indent: int = 0
) -> None:
    """Print rows in columns; cells that do not fit go on below themselves."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    used = [
        place for place in range(max(map(len, rows), default=0)) if any(row[place] for row in rows)
    ]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(heads))
    for place in used:
        head = Text(heads[place], "dim") if heads else ""
        grid.add_column(head, style="bold" if place == 0 else "", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(row[place])) for place in used))
    _print_trimmed(Padding(grid, (0, 0, 0, indent), expand=False), on)


def paragraph(text: str, *, on: Console, style: str = "") -> None:
    """Print text broken at the console's width."""
    from rich.text import Text

    _print_trimmed(Text(printable(text), style), on)


def _print_trimmed(what: RenderableType, on: Console) -> None:
    """Print without the blanks that rich puts at the ends of lines."""
    with on.capture() as captured:
        on.print(what)
    for line in captured.get().splitlines():
        click.echo(re.sub(r" +((?:\x1b\[0m)?)$", r"\1", line), file=on.file, color=True)


def print_problems(problems: Sequence[Problem], *, source: str = "", stderr: bool = False) -> None:
    """Print a report and its last line, which counts.

    Args:
        problems: In the order in which they are printed; nothing is printed for none.
        source: What the user asked about; the files that the problems stand in if empty.
        stderr: Whether it goes there.
    """
    out = console(stderr=stderr)
    for problem in problems:
        out.print(coloured(problem), soft_wrap=True)
        out.print()
    if problems:
        out.print(tally(problems, source), soft_wrap=True)


def tally(problems: Sequence[Problem], source: str = "") -> str:
    """`3 problems in my.yaml (2 errors, 1 warning)`."""
    wrong = len(errors_of(problems))
    counts = ((wrong, "error"), (len(problems) - wrong, "warning"))
    parts = [_counted(number, noun) for number, noun in counts if number]
    where = source or ", ".join(dict.fromkeys(problem.span.file for problem in problems))
    return printable(f"{_counted(len(problems), 'problem')} in {where} ({', '.join(parts)})")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def coloured(problem: Problem) -> Text:
    """The text of `errors.render` with colours."""
    from rich.text import Text

    colour = "red" if problem.severity == "error" else "yellow"
    text = Text(printable(render(problem)))
    start = len(f"{problem.span}: ")
    text.stylize("bold", 0, text.plain.find("\n") if "\n" in text.plain else len(text.plain))
    text.stylize(f"bold {colour}", start, start + len(f"{problem.severity}[{problem.code}]"))
    text.highlight_regex(r"(?m)^ *\d* \|", "blue")
    for match in re.finditer(r"(?m)^ *\| +(\^.*)$", text.plain):
        text.stylize(f"bold {colour}", match.start(1), match.end(1))
    text.highlight_regex(r"(?m)^ *= (expected|got +|note|help):", "cyan")
    return text


def as_data(problem: Problem) -> dict[str, Any]:
    """A problem for other programs."""
    data = asdict(problem)
    return {**data.pop("span"), **data}


def print_json(data: object) -> None:
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=2))
