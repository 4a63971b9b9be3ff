"""Patches of pixels: their order and their normalisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sslgraph.nodes.base import SettingError, make_node
from sslgraph.registry import find


def patches(image: torch.Tensor, **settings: Any) -> torch.Tensor:
    made: torch.Tensor = make_node("patchify", **settings)(image)
    return made


def test_the_order_is_that_of_the_places_then_row_column_channel() -> None:
    image = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    found = patches(image, patch=2)
    assert found.shape == (2, 6, 12)
    for sample in range(2):
        for place in range(6):
            row, column = divmod(place, 3)
            expected = [
                image[sample, channel, 2 * row + y, 2 * column + x].item()
                for y in range(2)
                for x in range(2)
                for channel in range(3)
            ]
            assert found[sample, place].tolist() == expected


def test_patches_are_normalised_over_pixels_and_channels_by_the_unbiased_variance() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
    found = patches(image, patch=2, normalize="patch")[0, 0].tolist()
    assert found == pytest.approx([-1.161895, -0.387298, 0.387298, 1.161895], abs=1e-6)
    coloured = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(1, 4, 1, 1)
    alike = patches(coloured, patch=1, normalize="patch")[0, 0].tolist()
    assert alike == pytest.approx(found)


def test_a_flat_patch_is_zero() -> None:
    assert (
        not patches(torch.full((1, 3, 4, 4), 0.3), patch=4, normalize="patch").abs().gt(1e-3).any()
    )


def test_images_are_whole_patches() -> None:
    with pytest.raises(SettingError, match="patchify cuts images into patches of 16 x 16"):
        find("patchify").module(axes={"H": 224, "W": 100})
