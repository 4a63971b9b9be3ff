"""What stops a run, in words for the person who started it."""

from __future__ import annotations


class RunError(ValueError):
    """A run that can't start or go on; the text says why and what to do.

    Attributes:
        exit_code: What a command that fails so exits with.
    """

    exit_code = 1


class NonFiniteError(RunError):
    """Loss or gradient was infinite or not a number too many times in a row."""

    exit_code = 3
