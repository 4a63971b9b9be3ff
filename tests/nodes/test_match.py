"""Matching places: against a loop in numpy, within images alone; what a loss makes of places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslgraph.nodes.base import make_node


def test_each_place_finds_the_most_similar_one() -> None:
    """By cosine, whatever the lengths; in every view of the bank, in the same image."""
    generator = np.random.default_rng(2)
    x, bank = generator.normal(size=(3, 2, 5, 4)), generator.normal(size=(2, 2, 7, 4))
    bank[:, :, 0] *= 100  # long rows are no better
    found = make_node("match")(torch.from_numpy(x), torch.from_numpy(bank))
    assert (tuple(found.shape), found.dtype) == ((3, 2, 2, 5), torch.int64)
    for view, image, other, place in np.ndindex(3, 2, 2, 5):
        row, rows = x[view, image, place], bank[other, image]
        cosines = rows @ row / np.linalg.norm(rows, axis=1)
        assert found[view, image, other, place] == cosines.argmax()


def test_of_equals_the_first_counts() -> None:
    found = make_node("match")(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 4, 3))
    assert found.flatten().tolist() == [0, 0]


def test_a_loss_compares_with_the_places_found() -> None:
    """A view of the prediction takes other places of each view of the target."""
    z = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    q = torch.randn(2, 1, 5, 4, dtype=torch.float64).softmax(-1)
    places = torch.tensor([[[[0, 0, 1], [4, 3, 2]]], [[[2, 1, 0], [1, 1, 4]]]])
    loss = make_node("soft_cross_entropy", pairs="all")
    expected = [
        -(q[j, 0, places[i, 0, j, n]] * z[i, 0, n].log_softmax(-1)).sum().item()
        for i in range(2)
        for j in range(2)
        for n in range(3)
    ]
    found = loss(z, q, None, None, places).item()
    assert found == pytest.approx(sum(expected) / 12, rel=1e-12)
    mask = torch.tensor([[[True, False, True]], [[False, True, True]]])
    hidden = loss(z, q, mask, None, places).item()
    kept = [value for value, on in zip(expected, [1, 0, 1] * 2 + [0, 1, 1] * 2, strict=True) if on]
    assert hidden == pytest.approx(sum(kept) / 8, rel=1e-12)


def test_places_of_another_shape_are_refused() -> None:
    z, q = torch.randn(1, 2, 3, 4), torch.randn(2, 2, 5, 4).softmax(-1)
    loss = make_node("soft_cross_entropy", pairs="all")
    with pytest.raises(ValueError, match="name a place of the target for each"):
        loss(z, q, None, None, torch.zeros(1, 2, 1, 3, dtype=torch.int64))
