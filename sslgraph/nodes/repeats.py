"""Whether this thread computes something a second time, since a backward pass needs it again.

What a forward counts or averages (running statistics) it writes the first time only.
"""

from __future__ import annotations

import threading
from types import TracebackType

import torch


class _Thread(threading.local):
    again = False  # backward has threads of its own, so the mark belongs to the thread


_thread = _Thread()


def computes_again() -> bool:
    """Whether a forward runs once more for its backward; never inside a compiled region."""
    return not torch.compiler.is_compiling() and _thread.again


class Again:
    """Marks what runs inside as a repetition; may be entered many times and in any thread."""

    def __enter__(self) -> None:
        _thread.again = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _thread.again = False
