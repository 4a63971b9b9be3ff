"""Two processes that train together, started once for many tasks."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

RANKS = 2
_PATIENCE = 120  # seconds

OnRanks = Callable[..., list[Any]]
"""Runs a function in every process, its rank before the arguments: one result a rank."""


class PoolError(RuntimeError):
    """What failed in a process, or that it does not answer."""


class Pool:
    """Processes joined by gloo, each with one thread; a context manager.

    They start with the first task, or before by `start`, and live until `close`. A function and its
    arguments are sent to them, so they stand at the top of a module.

    Args:
        paths: Folders from which modules are imported there too.
    """

    def __init__(self, paths: Sequence[str] = ()) -> None:
        self._paths = list(paths)
        self._pipes: list[Connection[Any, Any]] = []
        self._workers: list[BaseProcess] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> None:
        """Start the processes where they do not run yet; they get ready while others work."""
        if self._workers:
            return
        import torch.multiprocessing as mp

        context = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="sslgraph-")
        store = str(Path(self._folder.name) / "store")
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            given = (rank, store, theirs, self._paths)
            worker = context.Process(target=_work, args=given, daemon=True)
            worker.start()
            theirs.close()
            self._pipes.append(ours)
            self._workers.append(worker)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run a function in every process.

        Raises:
            PoolError: It failed in one of them, and the text says how, or nothing comes back.
        """
        self.start()
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = [self._answer(pipe, function.__name__) for pipe in self._pipes]
        failed = [text for done, text in answers if not done]
        if failed:
            raise PoolError(f"in one of {RANKS} processes: {failed[0]}")
        return [value for _, value in answers]

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except OSError:  # it has ended already
                continue
        for worker in self._workers:
            worker.join(10)
            if worker.is_alive():
                worker.terminate()
        self._pipes, self._workers = [], []
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Pool:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, pipe: Connection[Any, Any], task: str) -> tuple[bool, Any]:
        try:
            if pipe.poll(_PATIENCE):
                answer: tuple[bool, Any] = pipe.recv()
                return answer
        except EOFError:
            raise PoolError(f"a process ended during {task}") from None
        raise PoolError(f"{task} does not come back")


def _work(rank: int, store: str, pipe: Connection[Any, Any], paths: list[str]) -> None:
    import traceback

    import torch
    import torch.distributed as dist

    sys.path[:0] = paths
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    try:
        while (task := pipe.recv()) is not None:
            function, arguments = task
            try:
                pipe.send((True, function(rank, *arguments)))
            except Exception as failure:
                pipe.send((False, f"{_first_line(failure)}\n{traceback.format_exc()}"))
    except EOFError:  # the other side has gone
        pass
    finally:
        dist.destroy_process_group()


def _first_line(failure: Exception) -> str:
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0] if lines else 'without a text'}"
