"""Halves of a batch against the whole."""

from __future__ import annotations

import re

from tests.proving.graphs import failure, one, passes, with_loss, with_memory, with_pairs

NAME = "accumulation"


def test_a_loss_that_sums_over_images_is_found() -> None:
    text = failure(with_loss("broken_total"), NAME)
    assert re.fullmatch(r"loss of a batch is \S+, but the mean over its halves \S+", text)


def test_a_node_that_looks_at_the_batch_and_does_not_say_so_is_found() -> None:
    graph = with_pairs("mse", of="broken_own_mean")
    assert failure(graph, NAME).startswith("loss of a batch is")


def test_a_sound_graph_passes() -> None:
    found = passes(with_pairs("mse"), NAME)
    assert re.fullmatch(
        r"loss and gradients of two halves of 8 images, apart by \S+ at most", found
    )


def test_it_says_what_looks_at_the_batch() -> None:
    assert one(with_loss("nt_xent"), NAME).found == "nt_xent compares the images of a batch"
    assert one(with_memory("toy_memory"), NAME).found == "memory is written by each forward pass"
