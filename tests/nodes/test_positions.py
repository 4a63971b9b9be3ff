"""The table of sines and cosines."""

import math

import pytest
import torch

from sslgraph.nodes.positions import sincos_table


def test_goldens() -> None:
    table = sincos_table(2, 2, 8)
    places = table.view(2, 2, 8)
    along = [0.841471, 0.01, 0.540302, 0.99995]
    assert places[0, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert places[0, 1].tolist() == pytest.approx([*along, 0, 0, 1, 1], abs=1e-6)
    assert places[1, 0].tolist() == pytest.approx([0, 0, 1, 1, *along], abs=1e-6)


def test_against_the_formula() -> None:
    table = sincos_table(3, 5, 24)
    assert table.dtype == torch.float32
    for place in range(15):
        row, column = divmod(place, 5)
        expected = [
            function(c * 10000 ** (-k / 6))
            for c in (column, row)
            for function in (math.sin, math.cos)
            for k in range(6)
        ]
        assert table[place].tolist() == pytest.approx(expected, abs=1e-7)
