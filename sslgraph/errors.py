"""Problems in a graph: where, what was found, what was expected, what to do.

A check never raises for a mistake of the user's; it returns `Problem` values. `GraphError` carries
them where an exception is the only way out. The text made by `render` is part of the interface:
`tests/bad_graphs` compares it word for word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

Severity = Literal["error", "warning"]

_TAB = "    "
_WIDEST_LINE = 120


@dataclass(frozen=True)
class Span:
    """A stretch of one line of a source: a file, a `--set` argument or a Python dict.

    Args:
        file: What the user calls the source: a path as it was given, `--set`, or `<dict>`.
        line: Line number from 1; 0 where the source has no lines.
        column: Column of the first character, from 1; 0 where the source has none.
        end_column: Column after the last character.
        text: The whole line, without its end.
    """

    file: str
    line: int = 0
    column: int = 0
    end_column: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One mistake, complete enough to act on.

    Args:
        code: Stable name such as `E203`; letters W mark warnings.
        title: One line that says what is wrong.
        span: Where it stands in the source.
        under: Short text that is put behind the caret: what was found there.
        expected: What would be right here.
        got: What was found instead.
        notes: Further facts, one line each.
        help: What to do.
        severity: `error` stops a run, `warning` does not.
    """

    code: str
    title: str
    span: Span
    under: str = ""
    expected: str = ""
    got: str = ""
    notes: tuple[str, ...] = ()
    help: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        return render(self)


@dataclass
class GraphError(ValueError):
    """A graph that can't be loaded, compiled or run, with every problem that was found."""

    problems: Sequence[Problem] = field(default_factory=tuple)

    def __str__(self) -> str:
        return "\n\n".join(render(problem) for problem in self.problems)

    def __reduce__(self) -> tuple[type[GraphError], tuple[Sequence[Problem]]]:
        return type(self), (self.problems,)


def error(problem: Problem) -> GraphError:
    """A `GraphError` with a single problem."""
    return GraphError((problem,))


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """Those problems that stop a run."""
    return [problem for problem in problems if problem.severity == "error"]


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems as a reader meets them: by file, line and column, equal ones once.

    What has no line (a Python dict, `--set`) stays in the order in which it was found.
    """
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda p: (p.span.file, p.span.line, p.span.line and p.span.column))


def did_you_mean(
    word: str, known: Iterable[str], *, show: str = "known", in_order: bool = False
) -> str:
    """`did you mean 'x'?` for a near miss, else the list of what there is.

    Args:
        word: What was written.
        known: What could have been meant.
        show: What the list is called.
        in_order: Whether the list keeps the order of `known`; else it is sorted.
    """
    names = list(dict.fromkeys(known)) if in_order else sorted(set(known))
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if not names:
        return f"{show}: none"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{show}: {shown}"


def render(problem: Problem) -> str:
    """The problem as text: position, line with caret, expected and got, remedy."""
    head = f"{problem.span}: {problem.severity}[{problem.code}]: {problem.title}"
    return "\n".join([head, *_quoted(problem.span, problem.under), *_facts(problem)])


def _quoted(span: Span, under: str) -> list[str]:
    if not span.text.strip():
        return []
    text, first, last = _cropped(span)
    gutter = " " * len(str(span.line or ""))
    number = str(span.line or "")
    caret = " " * first + "^" * max(1, last - first)
    return [f"{gutter} |", f"{number} | {text}", f"{gutter} | {caret} {under}".rstrip()]


def _cropped(span: Span) -> tuple[str, int, int]:
    """The line without tabs, cut to a window round the span, and the span's place in it."""
    before = span.text[: span.column - 1].expandtabs(len(_TAB))
    whole = before + span.text[span.column - 1 :].expandtabs(len(_TAB))
    first = len(before)
    last = max(first + 1, first + span.end_column - span.column)
    if len(whole) > _WIDEST_LINE:
        left = max(0, min(first - 40, len(whole) - _WIDEST_LINE))
        cut = whole[left : left + _WIDEST_LINE]
        prefix, suffix = "..." * (left > 0), "..." * (left + _WIDEST_LINE < len(whole))
        first, last = first - left + len(prefix), last - left + len(prefix)
        whole = prefix + cut + suffix
    whole = whole.rstrip()
    return whole, first, max(first + 1, min(last, len(whole)))


def _facts(problem: Problem) -> list[str]:
    facts = [
        ("expected", problem.expected),
        ("got     ", problem.got),
        *(("note", note) for note in problem.notes),
        ("help", problem.help),
    ]
    pad = " " * len(str(problem.span.line or ""))
    return [f"{pad} = {label}: {_indented(text, pad)}" for label, text in facts if text]


def _indented(text: str, pad: str) -> str:
    return text.replace("\n", f"\n{pad}   ")
