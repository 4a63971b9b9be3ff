"""What many tests share: one thread, node types that vanish after their test, two processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
RANKS = 2

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
def on_ranks() -> Iterator[OnRanks]:
    """Run a function in two processes that train together: one result a rank.

    The function stands at the top of a test module, takes its rank and then the arguments.
    """
    from sslgraph.proving.pool import Pool

    pool = Pool(paths=[str(ROOT)])
    yield pool
    pool.close()
