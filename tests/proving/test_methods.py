"""Shipped methods are wired as they say: each property holds or says why it means nothing."""

from __future__ import annotations

from functools import cache

import pytest

from sslgraph.proving import PROPERTIES, Case, proved
from sslgraph.testing import small
from tests.conftest import OnRanks
from tests.methods.shipped import chosen


@cache
def case(name: str) -> Case:
    return Case.of(small(name))


@pytest.mark.parametrize("name", chosen())
@pytest.mark.parametrize("property", PROPERTIES)
def test_a_shipped_method(name: str, property: str, on_ranks: OnRanks) -> None:
    case(name).on_ranks = on_ranks
    result = proved(case(name), property)
    assert result.status in ("passed", "does_not_apply"), str(result)
    assert result.found
