"""Classes of patches by a random projection: against numpy, keyed, stored, without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import Context, make_node


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def made(seed: int = 0, **settings: Any) -> Any:
    use: Any = type(make_node("tokenizer"))
    return use(
        axes={"C": 3, "H": 32, "W": 32},
        context=Context(name="ids", seed=seed),
        **{"patch": 8, "count": 50, **settings},
    )


def test_against_numpy() -> None:
    """The largest product of the normalised pixels of a patch with directions of length 1."""
    node, x = made(), images(2, 3, 3, 32, 32)
    directions = node.directions.numpy()
    assert directions.shape == (50, 192)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    ids = node(x)
    assert (ids.dtype, ids.shape) == (torch.int64, (2, 3, 16))
    for view in range(2):
        for image in range(3):
            for place in range(16):
                row, column = place // 4 * 8, place % 4 * 8
                patch = x[view, image, :, row : row + 8, column : column + 8].numpy()
                pixels = patch.transpose(1, 2, 0).ravel().astype(np.float64)
                pixels = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
                assert ids[view, image, place] == (directions @ pixels).argmax()


def test_brightness_and_contrast_of_a_patch_do_not_matter() -> None:
    node, x = made(), images(1, 4, 3, 32, 32)
    assert torch.equal(node(x), node(0.5 * x + 0.3))
    assert not torch.equal(node(x), node(x.flip(-1)))


def test_all_classes_are_used_about_alike() -> None:
    """Directions without preference: of 20000 noise patches each of 50 classes gets 400."""
    node = made(count=50)
    ids = node(images(1, 1250, 3, 32, 32))
    counts = torch.bincount(ids.flatten(), minlength=50)
    assert counts.min() > 100
    assert counts.max() < 1200


def test_directions_follow_seed_and_name_and_are_saved() -> None:
    node, x = made(), images(1, 2, 3, 32, 32)
    assert torch.equal(made().directions, node.directions)
    other = made(seed=1)
    assert not torch.equal(other.directions, node.directions)
    other.load_state_dict(node.state_dict())
    assert torch.equal(other(x), node(x))
    assert list(node.state_dict()) == ["directions"]
    assert not list(node.parameters())


def test_evaluation_and_autocast_change_nothing() -> None:
    node, x = made(), images(1, 20, 3, 32, 32)
    ids = node(x)
    assert torch.equal(node.eval()(x), ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(node(x), ids)


def test_many_patches_are_scored_in_parts() -> None:
    """16 patches of each of 600 images are more than one part."""
    node, x = made(), images(1, 600, 3, 32, 32)
    alone = torch.cat([node(x[:, :300]), node(x[:, 300:])], 1)
    assert torch.equal(node(x), alone)


def test_no_gradient_passes() -> None:
    x = images(1, 2, 3, 32, 32).requires_grad_()
    assert not made()(x).requires_grad


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="tokenizer cuts images into patches of 8 x 8"):
        make_node("tokenizer", patch=8, count=4)(images(1, 1, 3, 30, 32))
    with pytest.raises(ValueError, match=r"tokenizer\.count"):
        make_node("tokenizer", count=1)
