"""The contract of every registered node type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sslgraph import registry
from sslgraph.testing import PROPERTIES
from sslgraph.testing.subject import Subject
from tests.nodes.runs import finished_run

Made = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Settings in the place of samples that name what has to be there."""
    return {"frozen": {"run": str(finished_run(tmp_path_factory.mktemp("runs") / "teacher-001"))}}


@pytest.mark.parametrize("property", PROPERTIES)
@pytest.mark.parametrize("use", sorted(registry.SHIPPED))
def test_the_contract(use: str, property: str, made: Made) -> None:
    reason = PROPERTIES[property](Subject.of(use, settings=made.get(use)))
    if reason:
        print(f"{use}, {property}: {reason}")  # shown by `pytest -rP`
