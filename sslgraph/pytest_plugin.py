"""The pytest plugin: two processes that all proofs of a test run share.

pytest loads it wherever sslgraph is installed, so nothing heavy is imported before it is used.
`sslgraph.testing` says how a test file proves methods and node types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sslgraph.proving import Pool


@pytest.fixture(scope="session")
def sslgraph_processes() -> Iterator[Pool]:
    """Runs a function in two processes that train together; they start with the first task."""
    from sslgraph.proving import Pool

    pool = Pool()
    yield pool
    pool.close()
