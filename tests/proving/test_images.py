"""The order of images, seen to matter where a loss looks at places."""

from __future__ import annotations

import re

from tests.proving.graphs import failure, passes, with_loss


def test_a_loss_that_looks_at_places_is_found() -> None:
    text = failure(with_loss("broken_by_place"), "image_order")
    assert re.fullmatch(r"permuting the images changes loss from \S+ to \S+", text)


def test_a_sound_loss_passes() -> None:
    found = passes(with_loss("nt_xent"), "image_order")
    assert re.fullmatch(r"loss and gradients of 8 images, apart by \S+ at most", found)
