"""Histograms of oriented gradients: numbers of the released code, and numpy pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslgraph.nodes.base import make_node

Array = NDArray[np.float64]


def hog(image: Tensor, **settings: Any) -> Tensor:
    """Histograms of one view of B C H W."""
    y: Tensor = make_node("hog", **settings)(image.unsqueeze(0))[0]
    return y


def drawn(function: Callable[[Any, Any], Any]) -> Tensor:
    """An image of 32 x 32 with three channels alike, from x to the right and y down."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image: Tensor = function(x, y)
    return image.expand(1, 3, 32, 32)


def cells(image: Tensor) -> Tensor:
    """3 x 9 numbers of each of 4 x 4 cells."""
    y = hog(image, patch=8)[0]
    return y.view(4, 4, 3, 9)


def by_hand(image: Array, bins: int = 9, cell: int = 8) -> Array:
    """Rows, columns, channel, bin: one pixel after the other."""
    channels, height, width = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    found = np.zeros((height // cell, width // cell, channels, bins))
    weights = np.array([1, 2, 1])
    for c in range(channels):
        for row in range(height):
            for column in range(width):
                square = padded[c, row : row + 3, column : column + 3]
                # as differences of neighbours, which are exactly 0 where the border is mirrored
                gx = weights @ (square[:, 0] - square[:, 2])
                gy = weights @ (square[0] - square[2])
                number = math.floor(math.atan2(gx, gy) / math.pi * bins) % bins
                found[row // cell, column // cell, c, number] += math.hypot(gx, gy)
    lengths = np.linalg.norm(found, axis=-1, keepdims=True)
    return np.asarray(found / np.maximum(lengths, 1e-12))


@pytest.mark.parametrize(
    ("function", "number"),
    [(lambda x, y: x, 4), (lambda x, y: y, 0)],
    ids=["to the right", "down"],
)
def test_ramps_along_an_axis_are_in_one_bin(function: Any, number: int) -> None:
    """Goldens of the released code, also at the border."""
    expected = torch.zeros(9)
    expected[number] = 1
    torch.testing.assert_close(cells(drawn(function)), expected.expand(4, 4, 3, 9))


def test_diagonal_ramps() -> None:
    """Goldens of the released code: bin 2 or 6 inside; a corner where the border is mirrored."""
    rising, falling = cells(drawn(lambda x, y: x + y)), cells(drawn(lambda x, y: x - y))
    for found, number in ((rising, 2), (falling, 6)):
        expected = torch.zeros(9)
        expected[number] = 1
        torch.testing.assert_close(found[1:3, 1:3], expected.expand(2, 2, 3, 9))
    corner = torch.tensor([0.1, 0, 0.9899, 0, 0.1, 0, 0, 0, 0])
    torch.testing.assert_close(rising[0, 0], corner.expand(3, 9), rtol=0, atol=1e-4)


def test_waves() -> None:
    """A golden of the released code: the cell in row 1, column 2."""
    found = cells(drawn(lambda x, y: (0.3 * x).sin() + (0.7 * y + 0.1 * x).cos()))[1, 2]
    expected = [0.3223, 0.7431, 0.1703, 0.0758, 0.0471, 0.0557, 0.0653, 0.1374, 0.5298]
    torch.testing.assert_close(found, torch.tensor(expected).expand(3, 9), rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"bins": 6, "cell": 4, "patch": 8}])
def test_against_numpy_pixel_by_pixel(settings: dict[str, int]) -> None:
    """And the order of the numbers: patch, channel, bin, row of cells, column of cells."""
    patch, cell, bins = (settings.get(k, d) for k, d in (("patch", 16), ("cell", 8), ("bins", 9)))
    side = patch // cell
    images = np.random.default_rng(4).normal(size=(2, 3, 32, 48))
    found = hog(torch.from_numpy(images), **settings)
    assert found.shape == (2, 32 // patch * 48 // patch, 3 * bins * side**2)
    for image, rows in zip(images, found.numpy(), strict=True):
        expected = by_hand(image, bins, cell)
        for place, row in enumerate(rows):
            top, left = place // (48 // patch) * side, place % (48 // patch) * side
            part = expected[top : top + side, left : left + side]
            order = part.transpose(2, 3, 0, 1).ravel()
            np.testing.assert_allclose(row, order, rtol=1e-9, atol=1e-12)


def test_the_size_of_the_published_target() -> None:
    assert hog(torch.rand(1, 3, 224, 224)).shape == (1, 196, 108)


def test_contrast_does_not_matter_and_channels_are_apart() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    y = hog(image).view(1, 4, 3, 36)
    torch.testing.assert_close(hog(3 * image + 1).view_as(y), y)
    other = image.clone()
    other[:, 1] = other[:, 1].flip(-1)
    changed = (hog(other).view_as(y) != y).any(-1).any(0).any(0)
    assert changed.tolist() == [False, True, False]


def test_without_edges_it_is_zero() -> None:
    assert not hog(torch.ones(1, 3, 32, 32)).any()


def test_no_gradient_passes_and_precision_is_kept() -> None:
    image = torch.rand(1, 3, 32, 32)
    assert not hog(image.clone().requires_grad_()).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hog(image), hog(image.clone()))
    assert hog(image.bfloat16()).dtype == torch.float32


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="cells of 5 x 5 don't fill a patch of 16 x 16"):
        make_node("hog", cell=5)
    with pytest.raises(ValueError, match="hog cuts images into patches of 16 x 16"):
        hog(torch.ones(1, 3, 32, 40))
