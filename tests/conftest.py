"""What many tests share: one thread, node types that vanish after their test, two processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
RANKS = 2
_PATIENCE = 120

OnRanks = Callable[..., list[Any]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_types_vanish() -> Iterator[None]:
    """A node type that a test declares is gone after it; families stay, they are imported once."""
    from sslgraph import registry

    before = dict(registry._declared)
    yield
    for use in registry._declared.keys() - before.keys() - registry.SHIPPED.keys():
        del registry._declared[use]


@pytest.fixture(scope="session")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRanks]:
    """Run a function in two processes that train together: one result a rank.

    The function stands at the top of a test module, takes its rank and then the arguments.
    """
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    store = tmp_path_factory.mktemp("ranks") / "store"
    pipes, workers = [], []
    for rank in range(RANKS):
        ours, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(rank, str(store), theirs), daemon=True)
        worker.start()
        pipes.append(ours)
        workers.append(worker)

    def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in pipes:
            pipe.send((function, arguments))
        answers = []
        for pipe in pipes:
            assert pipe.poll(_PATIENCE), f"{function.__name__} does not come back"
            answers.append(pipe.recv())
        failed = [text for done, text in answers if not done]
        assert not failed, failed[0]
        return [value for _, value in answers]

    yield run
    for pipe in pipes:
        pipe.send(None)
    for worker in workers:
        worker.join(10)


def _work(rank: int, store: str, pipe: Connection[Any, Any]) -> None:
    import traceback

    import torch
    import torch.distributed as dist

    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    try:
        while (task := pipe.recv()) is not None:
            function, arguments = task
            try:
                pipe.send((True, function(rank, *arguments)))
            except Exception:
                pipe.send((False, traceback.format_exc()))
    finally:
        dist.destroy_process_group()
