"""The loss against numpy: classes of images and of places, unknown ones, masks, processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import make_node
from tests.conftest import OnRanks

Array = NDArray[np.float64]


def loss_of(prediction: Tensor, target: Tensor, **rest: Any) -> Tensor:
    """The loss with its temperature in float64."""
    inputs = {name: rest.pop(name) for name in ("mask", "weight") if name in rest}
    node = make_node("cross_entropy", **rest)
    node.temperature = torch.tensor(rest.get("temperature", 1.0), dtype=torch.float64)
    value: Tensor = node(prediction, target, **inputs)
    return value


def costs(z: Array, label: NDArray[np.int64], smoothing: float = 0.0) -> Array:
    """What each row costs; unknown ones NaN, so that none can slip into a mean."""
    log_p = z - z.max(-1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    target = np.eye(z.shape[-1])[np.maximum(label, 0)]
    target = (1 - smoothing) * target + smoothing / z.shape[-1]
    return np.where(label < 0, np.nan, -(target * log_p).sum(-1))


def drawn(*shape: int) -> tuple[Tensor, Tensor]:
    """Scores and labels."""
    generator = np.random.default_rng(sum(shape))
    z, label = generator.normal(size=shape), generator.integers(0, shape[-1], shape[:-1])
    return torch.from_numpy(3 * z), torch.from_numpy(label)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 6, 5), (1, 6, 4, 5)])
def test_against_numpy(shape: tuple[int, ...], smoothing: float) -> None:
    z, label = drawn(*shape)
    expected = costs(z.numpy() / 0.5, label.numpy(), smoothing).mean()
    found = loss_of(z, label, temperature=0.5, smoothing=smoothing).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_against_torch() -> None:
    z, label = drawn(1, 6, 5)
    expected = functional.cross_entropy(z[0], label[0], label_smoothing=0.2)
    torch.testing.assert_close(loss_of(z, label, smoothing=0.2), expected, rtol=1e-12, atol=0)


def test_three_classes_by_hand() -> None:
    """Odds of 1 : 2 : 5 cost ln 8 - ln 5 where the third class is right."""
    z = torch.tensor([[[1.0, 2.0, 5.0]]], dtype=torch.float64).log()
    assert loss_of(z, torch.tensor([[2]])).item() == pytest.approx(math.log(8 / 5), rel=1e-12)
    wrong = math.log(8) - math.log(1)
    assert loss_of(z, torch.tensor([[0]])).item() == pytest.approx(wrong, rel=1e-12)


def test_unknown_labels_do_not_count() -> None:
    for shape in ((1, 6, 5), (1, 6, 4, 5)):
        z, label = drawn(*shape)
        label[0, 1], label[0, 4:] = -1, -7
        expected = np.nanmean(costs(z.numpy(), label.numpy()))
        assert loss_of(z, label).item() == pytest.approx(expected, rel=1e-12)
        z.requires_grad_()
        torch.autograd.backward(loss_of(z, label))
        assert z.grad is not None
        assert not z.grad[0, [1, 4, 5]].any()
        assert z.grad[0, 0].any()
        assert loss_of(z, label.clamp(max=-1)).item() == 0
        assert loss_of(z, label.clamp(max=-1), average="image").item() == 0


def test_hidden_places_of_the_batch_or_of_each_image() -> None:
    z, label = drawn(1, 3, 4, 5)
    mask = torch.tensor([[[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]).bool()
    label[0, 0, 0] = -1  # hidden, but unknown
    each = costs(z.numpy(), label.numpy())
    by_image = (each[0, 0, 1:3].mean() + each[0, 1, 1:3].mean()) / 3
    found = loss_of(z, label, mask=mask, average="image").item()
    assert found == pytest.approx(by_image, rel=1e-12)
    by_batch = np.mean([each[0, 0, 1], each[0, 0, 2], each[0, 1, 1], each[0, 1, 2]])
    assert loss_of(z, label, mask=mask).item() == pytest.approx(by_batch, rel=1e-12)
    changed = torch.where(mask, label, (label + 1) % 5)
    assert loss_of(z, changed, mask=mask).item() == pytest.approx(by_batch, rel=1e-12)


def test_weights_are_factors_of_a_plain_sum() -> None:
    z, label = drawn(1, 3, 4, 5)
    weight = torch.from_numpy(np.random.default_rng(1).random((1, 3, 4)))
    weight[0, 2], label[0, 1, 1] = 0, -1
    expected = np.nansum(costs(z.numpy(), label.numpy()) * weight.numpy())
    assert loss_of(z, label, weight=weight).item() == pytest.approx(expected, rel=1e-12)


def test_views_and_pairs() -> None:
    z, label = drawn(3, 4, 5)
    each = {
        (i, j): costs(z.numpy()[i], label.numpy()[j]).mean() for i in range(3) for j in range(2)
    }
    for which, pairs in {
        "same": [(0, 0), (1, 1)],
        "cross": [(0, 1), (1, 0), (2, 0), (2, 1)],
        "all": list(each),
    }.items():
        total = sum(float(each[pair]) for pair in pairs)
        found = loss_of(z, label[:2], pairs=which, reduce="sum").item()
        assert found == pytest.approx(total, rel=1e-12)
        found = loss_of(z, label[:2], pairs=which).item()
        assert found == pytest.approx(total / len(pairs), rel=1e-12)


def test_labels_of_the_data_belong_to_every_view() -> None:
    declared = make_node("cross_entropy")
    views = ("crops.0", "crops.1")
    found = declared.pairs(declared.config, {"prediction": views, "target": ("batch",)})
    assert found == ((0, 0), (1, 0))
    found = declared.pairs(declared.config, {"prediction": views, "target": ("crops.1",)})
    assert found == ((1, 0),)


def test_the_gradient_is_what_is_predicted_too_much() -> None:
    z, label = drawn(1, 6, 5)
    z.requires_grad_()
    torch.autograd.backward(loss_of(z, label, temperature=0.5))
    assert z.grad is not None
    p = torch.softmax(z.detach() / 0.5, -1)
    expected = (p - functional.one_hot(label, 5)) / (0.5 * 6)
    torch.testing.assert_close(z.grad, expected, rtol=1e-9, atol=1e-12)


def test_chance_and_floor() -> None:
    """Scores that tell nothing apart cost ln K: BEiT's 8192 ids 9.0109, rotations 1.386."""
    sizes = {"V": 1, "V'": 1, "B": 3, "K": 8192}
    for smoothing in (0.0, 0.1):
        node: Any = make_node("cross_entropy", smoothing=smoothing)
        assert node.chance(sizes) == pytest.approx(9.0109, abs=5e-5)
        label = torch.tensor([[1, 8191, 0]])
        flat = node(torch.full((1, 3, 8192), 0.3), label).item()
        assert flat == pytest.approx(9.0109, abs=5e-5)
    assert make_node("cross_entropy").floor(sizes) == 0.0  # type: ignore[operator]
    assert node.chance({**sizes, "K": 4}) == pytest.approx(1.386, abs=5e-4)
    q = torch.full((4,), 0.025).double()
    q[2] = 0.925
    expected = -(q * q.log()).sum().item()
    assert node.floor({**sizes, "K": 4}) == pytest.approx(expected, rel=1e-6)
    found = loss_of(q.log()[None, None], torch.tensor([[2]]), smoothing=0.1)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def on_one_rank(rank: int, z: Tensor, label: Tensor, average: str, places: bool) -> Tensor:
    half = z.shape[1] // 2
    mine = slice(rank * half, (rank + 1) * half)
    prediction = z[:, mine].clone().requires_grad_()
    mask = {"mask": torch.ones(1, half, 4, dtype=torch.bool)} if places else {}
    loss = loss_of(prediction, label[:, mine], average=average, **mask)
    torch.autograd.backward(loss)
    assert prediction.grad is not None
    return prediction.grad


@pytest.mark.parametrize("average", ["image", "batch"])
@pytest.mark.parametrize("places", [True, False])
def test_two_processes_are_one(on_ranks: OnRanks, average: str, places: bool) -> None:
    """Although the second one knows fewer labels."""
    z, label = drawn(1, 4, 4, 5) if places else drawn(1, 4, 5)
    label[0, 3] = -1
    if places:
        label[0, 2, 1:] = -1
    whole = z.clone().requires_grad_()
    mask = {"mask": torch.ones(1, 4, 4, dtype=torch.bool)} if places else {}
    torch.autograd.backward(loss_of(whole, label, average=average, **mask))
    found = torch.cat(on_ranks(on_one_rank, z, label, average, places), 1) / 2
    torch.testing.assert_close(found, whole.grad, rtol=1e-10, atol=1e-14)


def test_bad_input() -> None:
    z, label = drawn(1, 6, 4, 5)
    with pytest.raises(ValueError, match=r"views of \[6, 4\] rows and of \[6\] labels"):
        loss_of(z, label[..., 0])
    with pytest.raises(ValueError, match="has 5 classes, 0 to 4, but a label is 5"):
        loss_of(z, label + (label == 4).long())
    with pytest.raises(ValueError, match=r"mask marks places \[6 3\] of tokens"):
        loss_of(z, label, mask=torch.ones(1, 6, 3) > 0)
    with pytest.raises(ValueError, match=r"weight marks places \[6 3\] of tokens"):
        loss_of(z, label, weight=torch.ones(1, 6, 3))


def test_autocast_leaves_the_loss_in_single_precision() -> None:
    z, label = drawn(1, 16, 8)
    node = make_node("cross_entropy")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = node(z.float(), label)
    assert torch.equal(mixed, node(z.float(), label))
    assert node(z.bfloat16(), label).dtype == torch.float32
