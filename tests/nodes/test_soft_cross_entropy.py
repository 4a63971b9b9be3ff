"""The loss against DINO and iBOT by hand, its pairs, masks and gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslgraph.nodes.base import make_node
from tests.conftest import OnRanks

Array = NDArray[np.float64]


def loss_of(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    temperature: float = 0.1,
    **settings: Any,
) -> Tensor:
    """The loss with its temperature in float64."""
    node = make_node("soft_cross_entropy", temperature=temperature, **settings)
    node.temperature = torch.tensor(temperature, dtype=torch.float64)
    value: Tensor = node(prediction, target, mask, weight)
    return value


def waves(function: Any, first: int, last: int, *shape: int) -> Tensor:
    """Sine or cosine of whole numbers, as a tensor of this shape."""
    return torch.from_numpy(function(np.arange(first, last + 1, dtype=np.float64)).reshape(shape))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def sharpened(logits: Tensor, temperature: float, center: Array | float = 0.0) -> Tensor:
    return torch.from_numpy(softmax((logits.numpy() - center) / temperature))


def test_the_golden_of_dino() -> None:
    """Three student views, two of the teacher: four pairs; then the center has moved once."""
    student, teacher = waves(np.sin, 1, 24, 3, 2, 4), waves(np.cos, 1, 16, 2, 2, 4)
    loss = loss_of(student, sharpened(teacher, 0.04))
    assert loss.item() == pytest.approx(7.986676305872, abs=1e-10)
    center = 0.1 * teacher.numpy().reshape(4, 4).mean(0)
    again = loss_of(student, sharpened(teacher, 0.04, center))
    assert again.item() == pytest.approx(7.992380943222, abs=1e-10)


def test_the_goldens_of_ibot() -> None:
    """Class tokens of all crops across views; hidden patches in the same view, image by image."""
    student = torch.cat([waves(np.sin, 1, 12, 2, 2, 3), waves(np.sin, 5, 10, 1, 2, 3)])
    target = sharpened(waves(np.cos, 1, 12, 2, 2, 3), 0.04)
    assert loss_of(student, target).item() == pytest.approx(8.514307474305, abs=1e-10)
    patches, teacher = waves(np.sin, 2, 49, 2, 2, 4, 3), waves(np.cos, 2, 49, 2, 2, 4, 3)
    mask = torch.tensor([[[1, 0, 0, 1], [0, 0, 0, 0]], [[1, 1, 1, 0], [0, 0, 0, 1]]]).bool()
    for temperature, expected in ((0.07, 3.659431056937), (0.04, 3.455933104124)):
        target = sharpened(teacher, temperature)
        found = loss_of(patches, target, mask, pairs="same").item()
        assert found == pytest.approx(expected, abs=1e-10)


def test_against_numpy() -> None:
    generator = np.random.default_rng(0)
    z, q = generator.normal(size=(4, 3, 6)), softmax(generator.normal(size=(2, 3, 6)))
    log_p = np.log(softmax(z / 0.3))
    pairs = [(i, j) for j in range(2) for i in range(4) if i != j]
    each = [float(-(q[j] * log_p[i]).sum(-1).mean()) for i, j in pairs]
    tensors = torch.from_numpy(z), torch.from_numpy(q)
    found = loss_of(*tensors, temperature=0.3).item()
    assert found == pytest.approx(sum(each) / len(pairs), rel=1e-12)
    found = loss_of(*tensors, temperature=0.3, reduce="sum").item()
    assert found == pytest.approx(sum(each), rel=1e-12)


def test_hidden_places_of_the_batch_or_of_each_image() -> None:
    generator = np.random.default_rng(1)
    z, q = generator.normal(size=(1, 3, 4, 5)), softmax(generator.normal(size=(1, 3, 4, 5)))
    mask = np.array([[[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]], dtype=bool)
    each = -(q * np.log(softmax(z / 0.1))).sum(-1)
    tensors = torch.from_numpy(z), torch.from_numpy(q), torch.from_numpy(mask)
    found = loss_of(*tensors, pairs="same").item()
    assert found == pytest.approx((each[0, 0, :3].mean() + each[0, 1, 1]) / 3, rel=1e-12)
    found = loss_of(*tensors, pairs="same", average="batch").item()
    assert found == pytest.approx(each[mask].mean(), rel=1e-12)
    even = torch.tensor([1, 0, 1, 0]).bool().expand(1, 3, 4)
    both = [loss_of(*tensors[:2], even, pairs="same", average=a) for a in ("image", "batch")]
    torch.testing.assert_close(*both, rtol=1e-12, atol=0)
    assert loss_of(*tensors[:2], even & False, pairs="same").item() == 0


def test_gathered_places_by_weight_are_hidden_places_by_image() -> None:
    generator = np.random.default_rng(4)
    z, q = generator.normal(size=(2, 3, 4, 5)), softmax(generator.normal(size=(2, 3, 4, 5)))
    hidden = torch.from_numpy(generator.random((2, 3, 4)) < 0.5)
    tensors = torch.from_numpy(z), torch.from_numpy(q)
    expected = loss_of(*tensors, hidden, pairs="same").item()
    gather = make_node("gather_tokens")
    (y, weight), (target, _) = gather(tensors[0], hidden), gather(tensors[1], hidden)
    found = loss_of(y, target, None, weight.double(), pairs="same").item()
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("average", ["image", "batch"])
def test_visible_places_do_not_matter(average: str) -> None:
    z, q = torch.randn(1, 2, 4, 5), torch.randn(1, 2, 4, 5).softmax(-1)
    mask = torch.tensor([1, 0, 0, 1]).bool().expand(1, 2, 4)
    value = loss_of(z, q, mask, pairs="same", average=average)
    other = torch.where(mask.unsqueeze(-1), z, z + torch.randn_like(z))
    assert torch.equal(loss_of(other, q, mask, pairs="same", average=average), value)


def test_the_gradient_is_what_is_predicted_too_much() -> None:
    """(softmax - target) / (temperature B), and -log softmax / B for the target: nothing stops."""
    generator = torch.Generator().manual_seed(9)
    z = torch.randn(1, 3, 6, dtype=torch.float64, generator=generator).requires_grad_()
    q = torch.randn(1, 3, 6, dtype=torch.float64, generator=generator).softmax(-1).requires_grad_()
    torch.autograd.backward(loss_of(z, q, temperature=0.2, pairs="same"))
    assert z.grad is not None
    assert q.grad is not None
    p = softmax(z.detach().numpy() / 0.2)
    np.testing.assert_allclose(z.grad.numpy(), (p - q.detach().numpy()) / 0.6, rtol=1e-9)
    np.testing.assert_allclose(q.grad.numpy(), -np.log(p) / 3, rtol=1e-9)


def test_chance_and_floor() -> None:
    """A uniform prediction costs ln K whatever the target; being right and sure costs nothing."""
    q = torch.randn(2, 5, 64).softmax(-1)
    for reduce, count in (("mean", 1), ("sum", 4)):
        node = make_node("soft_cross_entropy", reduce=reduce, temperature=0.1)
        expected = count * math.log(64)
        sizes = {"V": 3, "V'": 2, "B": 5, "K": 64}
        assert node.chance(sizes) == pytest.approx(expected)  # type: ignore[operator]
        assert node(torch.full((3, 5, 64), 2.0), q).item() == pytest.approx(expected, rel=1e-6)
        assert node.floor(sizes) == 0.0  # type: ignore[operator]
    sure = 100 * torch.eye(5, 64).expand(2, -1, -1)
    assert node(sure, torch.eye(5, 64).expand(2, -1, -1)).item() == pytest.approx(0, abs=1e-6)


def test_a_softmax_is_taken_once_a_view() -> None:
    """Of DINO's ten crops, not of its eighteen pairs."""
    with torch.profiler.profile() as profile:
        loss_of(torch.randn(10, 2, 16), torch.randn(2, 2, 16).softmax(-1))
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::_log_softmax"] == 1
    assert calls["aten::mul"] == 18


def test_large_logits_stay_finite() -> None:
    z = torch.tensor([[[1e4, -1e4, 0.0]]], requires_grad=True)
    loss = loss_of(z, torch.tensor([[[0.0, 0.5, 0.5]]]), pairs="all")
    torch.autograd.backward(loss)
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def on_one_rank(rank: int, z: Tensor, q: Tensor, mask: Tensor, average: str) -> Tensor:
    half = z.shape[1] // 2
    mine = slice(rank * half, (rank + 1) * half)
    prediction = z[:, mine].clone().requires_grad_()
    loss = loss_of(prediction, q[:, mine], mask[:, mine], pairs="same", average=average)
    torch.autograd.backward(loss)
    assert prediction.grad is not None
    return prediction.grad


@pytest.mark.parametrize("average", ["image", "batch"])
def test_two_processes_are_one(on_ranks: OnRanks, average: str) -> None:
    """Although the second one hides four times as many places."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(1, 4, 4, 3, dtype=torch.float64, generator=generator)
    q = torch.randn(1, 4, 4, 3, dtype=torch.float64, generator=generator).softmax(-1)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :2, 0] = mask[:, 2:] = True
    whole = z.clone().requires_grad_()
    torch.autograd.backward(loss_of(whole, q, mask, pairs="same", average=average))
    found = torch.cat(on_ranks(on_one_rank, z, q, mask, average), 1) / 2
    torch.testing.assert_close(found, whole.grad, rtol=1e-10, atol=1e-14)


def test_bad_input() -> None:
    z, q = torch.ones(2, 5, 4), torch.ones(2, 5, 4) / 4
    with pytest.raises(ValueError, match=r"of one shape, got views of \[5, 4\] and \[3, 4\]"):
        loss_of(z, q[:, :3])
    with pytest.raises(ValueError, match=r"mask marks places \[5 6\] of tokens, but the predic"):
        loss_of(z, q, torch.ones(2, 5, 6) > 0)


def test_autocast_leaves_the_loss_in_single_precision() -> None:
    torch.manual_seed(0)
    z, q = torch.randn(2, 16, 8), torch.randn(2, 16, 8).softmax(-1)
    loss = make_node("soft_cross_entropy", temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(z, q)
    assert torch.equal(mixed, loss(z, q))
    assert loss(z.bfloat16(), q.bfloat16()).dtype == torch.float32
    assert loss(z.double(), q.double()).dtype == torch.float64
