"""The loss on tensors built by hand: hidden places, patches and whole images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import make_node


def loss_of(prediction: Tensor, target: Tensor, mask: Tensor | None = None, **rest: Any) -> Tensor:
    value: Tensor = make_node("mse", **rest)(prediction, target, mask)
    return value


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return (
        torch.randn(1, 3, 8, 5, dtype=torch.float64, generator=generator),
        torch.randn(1, 3, 8, 5, dtype=torch.float64, generator=generator),
        torch.rand(1, 3, 8, generator=generator) < 0.75,
    )


def test_a_mask_of_everything_is_the_plain_mean(tokens: tuple[Tensor, Tensor, Tensor]) -> None:
    p, t, mask = tokens
    plain = np.mean((p.numpy() - t.numpy()) ** 2)
    assert loss_of(p, t).item() == pytest.approx(plain, rel=1e-12)
    assert loss_of(p, t, mask | True).item() == pytest.approx(plain, rel=1e-12)


def test_one_hidden_place_with_an_error_of_e() -> None:
    target = torch.zeros(1, 2, 4, 3)
    prediction = torch.full((1, 2, 4, 3), 7.0)
    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[0, 1, 2], prediction[0, 1, 2] = True, 0.3
    assert loss_of(prediction, target, mask).item() == pytest.approx(0.09)
    assert loss_of(prediction, target, mask & False).item() == 0


def test_hidden_places_by_hand(tokens: tuple[Tensor, Tensor, Tensor]) -> None:
    """The mean over D, summed over hidden places, by their number in the batch."""
    p, t, mask = (x.numpy() for x in tokens)
    total, count = 0.0, 0
    for image in range(3):
        for place in range(8):
            if mask[0, image, place]:
                total += float(np.mean((p[0, image, place] - t[0, image, place]) ** 2))
                count += 1
    assert loss_of(*tokens).item() == pytest.approx(total / count, rel=1e-12)


def test_visible_places_get_no_gradient(tokens: tuple[Tensor, Tensor, Tensor]) -> None:
    p, t, mask = tokens
    p.requires_grad_()
    torch.autograd.backward(loss_of(p, t, mask))
    assert p.grad is not None
    assert (p.grad[~mask] == 0).all()
    expected = 2 * (p.detach() - t)[mask] / (5 * mask.sum())
    torch.testing.assert_close(p.grad[mask], expected)


def test_a_prediction_of_zero_for_normalised_patches() -> None:
    """Patches of P numbers with mean 0 and unbiased variance 1 cost (P - 1) / P."""
    generator = torch.Generator().manual_seed(7)
    patches = torch.randn(1, 2, 4, 768, dtype=torch.float64, generator=generator)
    patches = patches - patches.mean(-1, keepdim=True)
    patches = patches / patches.var(-1, keepdim=True).sqrt()
    found = loss_of(torch.zeros_like(patches), patches).item()
    assert found == pytest.approx(767 / 768, rel=1e-12)


def test_the_four_numbers_of_a_normalised_patch() -> None:
    """[1, 2, 3, 4] becomes this; its squares have the mean 3 / 4 but for the 1e-6 in the root."""
    patch = torch.tensor([[[[-1.161895, -0.387298, 0.387298, 1.161895]]]])
    assert loss_of(torch.zeros(1, 1, 1, 4), patch).item() == pytest.approx(0.75, abs=2e-6)


def test_embeddings_images_and_views() -> None:
    generator = torch.Generator().manual_seed(8)
    for shape in ((2, 3, 4), (2, 3, 3, 6, 6)):
        p = torch.randn(shape, dtype=torch.float64, generator=generator)
        t = torch.randn(shape, dtype=torch.float64, generator=generator)
        each = [((p[i] - t[i]) ** 2).mean().item() for i in range(2)]
        assert loss_of(p, t).item() == pytest.approx(sum(each) / 2, rel=1e-12)
        assert loss_of(p, t, reduce="sum").item() == pytest.approx(sum(each), rel=1e-12)
        across = ((p - t.flip(0)) ** 2).mean().item()
        assert loss_of(p, t, pairs="cross").item() == pytest.approx(across, rel=1e-12)
    assert make_node("mse").floor({}) == 0.0  # type: ignore[operator]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"of one shape, got views of \[2, 4, 3\] and \[2, 1, 3\]"):
        loss_of(torch.ones(1, 2, 4, 3), torch.ones(1, 2, 1, 3))
    with pytest.raises(ValueError, match=r"mse.mask marks places \[2 5\] of tokens, but the pred"):
        loss_of(torch.ones(1, 2, 4, 3), torch.ones(1, 2, 4, 3), torch.ones(1, 2, 5) > 0)


def test_half_precision_is_computed_in_single(tokens: tuple[Tensor, Tensor, Tensor]) -> None:
    p, t, mask = tokens
    assert loss_of(p, t, mask).dtype == torch.float64
    far = 300 * torch.ones(1, 2, 4, 3, dtype=torch.float16)
    assert loss_of(far, -far).item() == 360000  # beyond the range of float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss_of(p.float(), t.float(), mask)
    assert torch.equal(mixed, loss_of(p.float(), t.float(), mask))
