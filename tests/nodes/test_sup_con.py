"""The loss against the paper by hand, against nt_xent, and two processes against one."""

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
from tests.nodes.view_losses import A, B

Array = NDArray[np.float64]


def loss_of(z: Tensor, label: Tensor | list[int], temperature: float = 0.2, **more: Any) -> Tensor:
    """The loss with its temperature in float64."""
    node = make_node("sup_con", temperature=temperature, **more)
    node.temperature = torch.tensor(temperature, dtype=torch.float64)
    value: Tensor = node(z, torch.as_tensor(label))
    return value


def by_hand(z: Array, label: list[int], temperature: float, log: str) -> float:
    """Equations 2 and 3, one anchor after the other."""
    views, batch, width = z.shape
    rows = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(views * batch, width)
    image = list(range(batch)) * views
    total = 0.0
    for i in range(views * batch):
        others = [j for j in range(views * batch) if j != i]
        shares = {j: math.exp(rows[i] @ rows[j] / temperature) for j in others}
        denominator = sum(shares.values())
        known = label[image[i]] >= 0
        positives = [
            j
            for j in others
            if image[j] == image[i] or (known and label[image[j]] == label[image[i]])
        ]
        if not positives:
            continue
        ratios = [shares[j] / denominator for j in positives]
        if log == "outside":
            total -= sum(map(math.log, ratios)) / len(ratios)
        else:
            total -= math.log(sum(ratios) / len(ratios))
    return float(total / (views * batch))


@pytest.fixture
def z() -> Tensor:
    return torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


LABEL = [0, 2, 0, -1, 2, 1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 3.783756),
        ({"base_temperature": 0.07}, 5.405366),  # the code for PyTorch
        ({"base_temperature": 1.0}, 0.378376),  # the code for TensorFlow
        ({"log": "inside"}, 0.992683),
    ],
)
def test_goldens(settings: dict[str, Any], expected: float) -> None:
    z = torch.tensor([A, B], dtype=torch.float64)
    assert loss_of(z, [0, 0, 1], 0.1, **settings).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("log", ["outside", "inside"])
@pytest.mark.parametrize("label", [LABEL, [0] * 6, [-1] * 6, [4, 4, 3, 3, 2, 2]])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_against_the_formula(z: Tensor, label: list[int], log: str, views: int) -> None:
    found = loss_of(z[:views], label, log=log).item()
    assert found == pytest.approx(by_hand(z[:views].numpy(), label, 0.2, log), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("label", [[3, 1, 4, 0, 5, 9], [-1] * 6])
def test_different_classes_are_nt_xent(z: Tensor, label: list[int]) -> None:
    plain = make_node("nt_xent", temperature=0.2)
    plain.temperature = torch.tensor(0.2, dtype=torch.float64)
    assert loss_of(z, label).item() == pytest.approx(plain(z).item(), rel=1e-14)
    assert loss_of(torch.tensor([A, B]).double(), [0, 1, 2], 0.1).item() == pytest.approx(
        1.650423, abs=1e-6
    )


@pytest.mark.parametrize(("views", "batch"), [(2, 2), (3, 5)])
def test_equal_rows_are_at_chance(views: int, batch: int) -> None:
    """ln 3 for two views of two images of a class."""
    z = torch.ones(views, batch, 3, dtype=torch.float64)
    settings: dict[str, Any] = {"base_temperature": 0.07}
    node: Any = make_node("sup_con", temperature=0.2, **settings)
    value = loss_of(z, [1] * batch, **settings).item()
    assert value == pytest.approx(math.log(views * batch - 1) * 0.2 / 0.07)
    assert node.chance({"V": views, "B": batch, "D": 3}) == pytest.approx(value)


def test_names_of_classes_and_order_do_not_matter(z: Tensor) -> None:
    value = loss_of(z, LABEL).item()
    assert loss_of(z, [7, 1, 7, -5, 1, 3]).item() == pytest.approx(value)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert loss_of(z[:, order], torch.tensor(LABEL)[order]).item() == pytest.approx(value)
    assert loss_of(z[[2, 0, 1]], LABEL).item() == pytest.approx(value)
    assert abs(loss_of(z[:, order], LABEL).item() - value) > 1e-3


@pytest.mark.parametrize("log", ["outside", "inside"])
def test_an_anchor_without_a_positive_counts_as_zero(z: Tensor, log: str) -> None:
    alone = z[:1].clone().requires_grad_()
    loss = loss_of(alone, LABEL, log=log)
    torch.autograd.backward(loss)
    assert loss > 0
    assert alone.grad is not None
    assert alone.grad.isfinite().all()
    assert loss_of(z[:1], [0, 1, 2, 3, 4, 5], log=log).item() == 0


def on_one_rank(rank: int, z: Tensor, label: Tensor, log: str) -> tuple[float, Tensor]:
    half = z.shape[1] // 2
    mine = slice(rank * half, (rank + 1) * half)
    part = z[:, mine].clone().requires_grad_()
    loss = loss_of(part, label[mine], log=log)
    torch.autograd.backward(loss)
    assert part.grad is not None
    return loss.item(), part.grad


@pytest.mark.parametrize("log", ["outside", "inside"])
def test_two_processes_are_one(on_ranks: OnRanks, z: Tensor, log: str) -> None:
    """The mean over processes of losses and of gradients; classes reach over both."""
    label = torch.tensor(LABEL)
    whole = z.clone().requires_grad_()
    expected = loss_of(whole, label, log=log)
    torch.autograd.backward(expected)
    results = on_ranks(on_one_rank, z, label, log)
    assert sum(value for value, _ in results) / 2 == pytest.approx(expected.item(), rel=1e-12)
    found = torch.cat([grad for _, grad in results], 1) / 2
    torch.testing.assert_close(found, whole.grad, rtol=1e-10, atol=1e-14)


def in_evaluation(rank: int, z: Tensor) -> float | None:
    node = make_node("sup_con", temperature=0.2).eval()
    return float(node(z.float(), torch.tensor(LABEL))) if rank == 0 else None


def test_evaluation_does_not_wait_for_other_processes(on_ranks: OnRanks, z: Tensor) -> None:
    assert on_ranks(in_evaluation, z)[0] == pytest.approx(loss_of(z, LABEL).item())


def test_autocast_leaves_the_loss_in_single_precision() -> None:
    torch.manual_seed(0)
    x, label = torch.randn(2, 16, 8), torch.arange(16) % 3
    loss = make_node("sup_con", temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(x, label)
    assert torch.equal(mixed, loss(x, label))
