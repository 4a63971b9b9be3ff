"""Stopping between two steps when the system or the user asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_INTERRUPTED = 75
"""EX_TEMPFAIL of sysexits.h: try again; schedulers requeue on it."""

_ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")


class StopRequest:
    """While entered, signals to stop only leave a note; a second Ctrl-C stops at once.

    Signals reach the main thread only; in another one this does nothing.

    Attributes:
        name: The signal that came, such as ``SIGTERM``, or ''.
    """

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _ASKING:
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
