"""The contract of every registered node type."""

import pytest

from sslgraph import registry
from sslgraph.testing import PROPERTIES
from sslgraph.testing.subject import Subject


@pytest.mark.parametrize("property", PROPERTIES)
@pytest.mark.parametrize("use", sorted(registry.SHIPPED))
def test_the_contract(use: str, property: str) -> None:
    reason = PROPERTIES[property](Subject.of(use))
    if reason:
        print(f"{use}, {property}: {reason}")  # shown by `pytest -rP`
