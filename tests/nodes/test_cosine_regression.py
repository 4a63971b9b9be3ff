"""The loss against the papers by hand: values, gradients, masks, and what it does not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslgraph.nodes.base import make_node
from tests.conftest import OnRanks
from tests.nodes.view_losses import A, B, double

Array = NDArray[np.float64]


def loss_of(prediction: Tensor, target: Tensor, mask: Tensor | None = None, **rest: Any) -> Tensor:
    value: Tensor = make_node("cosine_regression", **rest)(prediction, target, mask)
    return value


def cosines(a: Array, b: Array) -> Array:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(-1) / lengths)


@pytest.fixture
def views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(3, 5, 4, dtype=torch.float64, generator=generator),
        torch.randn(3, 5, 4, dtype=torch.float64, generator=generator),
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"reduce": "sum"}, 1.777191),
        ({"reduce": "mean"}, 0.888595),
        ({"reduce": "mean", "form": "similarity"}, -0.555702),
    ],
)
def test_goldens(settings: dict[str, Any], expected: float) -> None:
    prediction, target = double([A, B]), double([A, B])
    assert loss_of(prediction, target, **settings).item() == pytest.approx(expected, abs=1e-6)


def test_the_cosines_by_hand() -> None:
    """The rows of A and B have the cosines .96, 0 and the root of one half."""
    one = loss_of(double([A]), double([B]), reduce="mean", pairs="all")
    assert one.item() == pytest.approx(2 - 2 * (0.96 + 0 + 0.5**0.5) / 3, rel=1e-12)


@pytest.mark.parametrize(("factor", "expected"), [(2.0, 0.0), (-1.0, 8.0)])
def test_equal_and_opposite_directions(factor: float, expected: float) -> None:
    x = double([A, A])
    assert loss_of(x, factor * x, reduce="sum").item() == pytest.approx(expected, abs=1e-12)
    right = double([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert loss_of(right, right.flip(-1), reduce="sum").item() == pytest.approx(4)
    assert make_node("cosine_regression", reduce="sum").floor({}) == 0.0  # type: ignore[operator]


def test_the_floor_of_similarity(views: tuple[Tensor, Tensor]) -> None:
    x = views[0]
    for reduce, pairs, expected in (("mean", 1, -1.0), ("sum", 3, -3.0)):
        node = make_node("cosine_regression", reduce=reduce, form="similarity", pairs="same")
        assert node(x, 3 * x).item() == pytest.approx(expected)
        assert node.floor({"V": pairs, "V'": pairs}) == expected  # type: ignore[operator]


def test_the_bounds_of_similarity() -> None:
    """SimSiam's loss lies between -1 and 1, where opposite directions are."""
    x = double([A, A])
    for factor, expected in ((2.0, -1.0), (-0.5, 1.0)):
        found = loss_of(x, factor * x, reduce="mean", form="similarity").item()
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pairs", ["cross", "same", "all"])
def test_against_numpy(views: tuple[Tensor, Tensor], pairs: str) -> None:
    p, t = (x.numpy() for x in views)
    chosen = {
        "cross": [(i, j) for i in range(3) for j in range(3) if i != j],
        "same": [(i, i) for i in range(3)],
        "all": [(i, j) for i in range(3) for j in range(3)],
    }[pairs]
    each = [float(np.mean(2 - 2 * cosines(p[i], t[j]))) for i, j in chosen]
    found = loss_of(*views, reduce="sum", pairs=pairs).item()
    assert found == pytest.approx(sum(each), rel=1e-12)
    found = loss_of(*views, reduce="mean", pairs=pairs).item()
    assert found == pytest.approx(sum(each) / len(each), rel=1e-12)


def test_the_gradient_turns_and_does_not_stretch(views: tuple[Tensor, Tensor]) -> None:
    """It is orthogonal to the prediction, 2 sqrt(1 - cos^2) / (length B) long in each direction."""
    prediction, target = views[0][:1].clone().requires_grad_(), views[1][:1]
    torch.autograd.backward(loss_of(prediction, target, reduce="sum", pairs="all"))
    assert prediction.grad is not None
    assert (prediction.grad * prediction).sum(-1).abs().max() < 1e-15
    p = prediction.detach().numpy()[0]
    sine = np.sqrt(1 - cosines(p, target.numpy()[0]) ** 2)
    expected = 2 * sine / np.linalg.norm(p, axis=-1) / 5
    np.testing.assert_allclose(prediction.grad.norm(dim=-1)[0].numpy(), expected, rtol=1e-10)


def test_no_gradient_is_stopped(views: tuple[Tensor, Tensor]) -> None:
    """The cosine knows no sides, so both get the gradient that they get in each other's place."""
    found = []
    for order in (1, -1):
        sides = tuple(x.clone().requires_grad_() for x in views)
        torch.autograd.backward(loss_of(*sides[::order], reduce="sum", pairs="same"))
        found.append([x.grad for x in sides])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other)


def test_length_does_not_matter(views: tuple[Tensor, Tensor]) -> None:
    value = loss_of(*views, reduce="sum").item()
    scales = torch.linspace(0.1, 9, 15, dtype=torch.float64).view(3, 5, 1)
    assert loss_of(views[0] * scales, views[1], reduce="sum").item() == pytest.approx(value)
    assert loss_of(views[0], views[1] * scales, reduce="sum").item() == pytest.approx(value)


def test_tokens_and_hidden_places(views: tuple[Tensor, Tensor]) -> None:
    """Without a mask all places count; with one the hidden ones, each alike over the batch."""
    generator = torch.Generator().manual_seed(4)
    p = torch.randn(2, 3, 6, 4, dtype=torch.float64, generator=generator)
    t = torch.randn(2, 3, 6, 4, dtype=torch.float64, generator=generator)
    mask = torch.rand(2, 3, 6, generator=generator) < 0.4
    mask[0, 1] = False  # an image without hidden places adds nothing
    found = loss_of(p, t, reduce="sum", pairs="same")
    each = 2 - 2 * cosines(p.numpy(), t.numpy())
    assert found.item() == pytest.approx(2 * each.mean(), rel=1e-12)
    found = loss_of(p, t, mask, reduce="sum", pairs="same")
    hidden = [each[view][mask.numpy()[view]].mean() for view in range(2)]
    assert found.item() == pytest.approx(sum(hidden), rel=1e-12)
    elsewhere = torch.where(mask.unsqueeze(-1), p, torch.ones_like(p))
    assert loss_of(elsewhere, t, mask, reduce="sum", pairs="same").item() == found.item()
    one = loss_of(p, t, mask[:1], reduce="sum", pairs="same")
    both = loss_of(p, t, mask[:1].repeat(2, 1, 1), reduce="sum", pairs="same")
    assert torch.equal(one, both)


def on_one_rank(rank: int, p: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    half = p.shape[1] // 2
    mine = slice(rank * half, (rank + 1) * half)
    prediction = p[:, mine].clone().requires_grad_()
    loss = loss_of(prediction, t[:, mine], mask[:, mine], reduce="sum", pairs="same")
    torch.autograd.backward(loss)
    assert prediction.grad is not None
    return prediction.grad


def test_two_processes_that_hide_unlike_many_are_one(on_ranks: OnRanks) -> None:
    """A mean over each rank's own hidden places would weigh the places of the ranks unlike."""
    generator = torch.Generator().manual_seed(5)
    p = torch.randn(2, 4, 6, 3, dtype=torch.float64, generator=generator)
    t = torch.randn(2, 4, 6, 3, dtype=torch.float64, generator=generator)
    mask = torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[:, :2, 0] = mask[:, 2:] = True
    whole = p.clone().requires_grad_()
    torch.autograd.backward(loss_of(whole, t, mask, reduce="sum", pairs="same"))
    found = torch.cat(on_ranks(on_one_rank, p, t, mask), 1) / 2
    torch.testing.assert_close(found, whole.grad, rtol=1e-10, atol=1e-14)


def test_a_vector_of_zeros_has_a_finite_gradient() -> None:
    prediction = torch.zeros(1, 2, 3, requires_grad=True)
    loss = loss_of(prediction, torch.ones(1, 2, 3), reduce="sum", pairs="all")
    torch.autograd.backward(loss)
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert loss.item() == pytest.approx(2)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="reduce: Field required"):
        make_node("cosine_regression")
    with pytest.raises(ValueError, match=r"of one shape, got views of \[5, 4\] and \[1, 4\]"):
        loss_of(torch.ones(2, 5, 4), torch.ones(2, 1, 4), reduce="sum")
    with pytest.raises(
        ValueError, match=r"mask marks places \[5 6\] of tokens, but the prediction"
    ):
        loss_of(torch.ones(2, 5, 4), torch.ones(2, 5, 4), torch.ones(2, 5, 6) > 0, reduce="sum")


def test_autocast_leaves_the_loss_in_single_precision(views: tuple[Tensor, Tensor]) -> None:
    p, t = (x.float() for x in views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss_of(p, t, reduce="sum")
    assert torch.equal(mixed, loss_of(p, t, reduce="sum"))
    assert loss_of(p.double(), t.double(), reduce="sum").dtype == torch.float64
    assert loss_of(p.bfloat16(), t.bfloat16(), reduce="sum").dtype == torch.float32
