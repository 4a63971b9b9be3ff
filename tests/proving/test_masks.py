"""Hidden places, seen to leak."""

from __future__ import annotations

import re

from tests.proving.graphs import failure, one, passes, with_loss, with_mask

NAME = "masked_places"


def test_a_mask_that_leaks_is_found() -> None:
    text = failure(with_mask("broken_mask"), NAME)
    assert re.fullmatch(r"pixels of places that mask hides change encoder\.y by \S+", text)


def test_an_encoder_that_does_not_see_visible_places_is_found() -> None:
    text = failure(with_mask("broken_blind"), NAME)
    assert text.startswith("pixels of places that mask hides change encoder.y by")


def test_a_sound_encoder_passes() -> None:
    found = passes(with_mask("toy_masked"), NAME)
    assert found == "no output moves with hidden pixels: encoder (50% of its places)"


def test_it_does_not_apply_without_a_mask() -> None:
    assert one(with_loss("nt_xent"), NAME).found == "no node takes an image and a mask"
