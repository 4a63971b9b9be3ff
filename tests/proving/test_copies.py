"""Slow copies, seen to be late and to begin elsewhere."""

from __future__ import annotations

import re

import torch

from sslgraph.proving.copies import _Followed
from tests.proving.graphs import failure, one, passes, with_copy, with_loss


def test_a_copy_that_is_a_step_late_is_found() -> None:
    text = failure(with_copy("broken_late_copy"), "copies")
    assert re.fullmatch(
        r"slow\.pixels\.layer\.weight is \S+ off the closed form of momentum 0\.5 to 0\.8995 after "
        r"5 steps",
        text,
    )


def test_a_copy_that_begins_elsewhere_is_found() -> None:
    text = failure(with_copy("broken_start"), "copies")
    assert text == "slow.pixels.layer.weight does not begin equal to its original"


def test_copies_and_copies_of_copies_pass() -> None:
    found = passes(with_copy("ema"), "copies")
    assert re.fullmatch(
        r"8 weights after 5 steps, off by \S+ at most \(slow: momentum 0\.5 to 0\.8995, slower: "
        r"momentum 0\.996\)",
        found,
    )


def test_the_closed_form_of_two_steps_by_hand() -> None:
    start, first, second = (torch.tensor([value]) for value in (1.0, 2.0, 3.0))
    weight = _Followed("w", start, second, start, [(0.9, first), (0.5, second)])
    # (0.9 1 + 0.1 2) 0.5 + 0.5 3
    assert torch.allclose(weight.closed_form(), torch.tensor([2.05]))


def test_it_does_not_apply_without_a_copy() -> None:
    assert one(with_loss("nt_xent"), "copies").found == "no node is a slow copy of others"
