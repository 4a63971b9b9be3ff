"""The loss against the papers by hand, with a queue and in the batch, on one process and two."""

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
from tests.nodes.view_losses import A, B, double

Array = NDArray[np.float64]

QUEUE = [[1.0, 1.0], [-1.0, 1.0], [0.0, -1.0], [1.0, 0.0]]


def loss_of(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float,
    **settings: Any,
) -> Tensor:
    """The loss with its temperature in float64."""
    node = make_node("info_nce", temperature=temperature, **settings)
    node.temperature = torch.tensor(temperature, dtype=torch.float64)
    value: Tensor = node(query, positive, negatives)
    return value


def unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def by_hand(q: Array, k: Array, temperature: float, rows: Array | None = None) -> float:
    """One direction: the mean over images of -log softmax at the image's own key."""
    q, k = unit(q), unit(k)
    total = 0.0
    for i in range(len(q)):
        others = unit(rows) if rows is not None else np.delete(k, i, 0)
        scores = [math.exp(q[i] @ key / temperature) for key in others]
        own = math.exp(q[i] @ k[i] / temperature)
        total -= math.log(own / (own + sum(scores)))
    return total / len(q)


@pytest.fixture
def views() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(2, 6, 5, dtype=torch.float64, generator=generator),
        torch.randn(2, 6, 5, dtype=torch.float64, generator=generator),
        torch.randn(1, 9, 5, dtype=torch.float64, generator=generator),
    )


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 5.443850), (0.2, 2.393034)])
def test_moco_goldens(temperature: float, expected: float) -> None:
    q, k, queue = double([A]), double([B]), double([QUEUE])
    found = loss_of(q, k, queue, temperature=temperature, pairs="all")
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("key", "rows", "temperature", "expected"),
    [
        ((1.0, 0.0), (1.0, 0.0), 0.07, 11.090370),
        ((1.0, 0.0), (1.0, 0.0), 0.2, 11.090370),
        ((1.0, 0.0), (0.0, 1.0), 0.07, 0.040135),
        ((1.0, 0.0), (0.0, 1.0), 0.2, 6.092617),
    ],
)
def test_a_queue_of_moco_size(
    key: tuple[float, float], rows: tuple[float, float], temperature: float, expected: float
) -> None:
    q, k = double([[[1.0, 0.0]]]), double([[key]])
    queue = double([[rows]]).expand(1, 65536, 2)
    found = loss_of(q, k, queue, temperature=temperature, pairs="all")
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_gradient_of_moco() -> None:
    q = double([[[1.0, 0.0]]]).requires_grad_()
    k, negative = double([[[0.6, 0.8]]]), double([[[0.0, 1.0]]])
    loss = loss_of(q, k, negative, temperature=0.5, pairs="all", cosine=False)
    assert math.exp(-loss.item()) == pytest.approx(0.768525, abs=1e-6)
    torch.autograd.backward(loss)
    assert q.grad is not None
    np.testing.assert_allclose(q.grad[0, 0].numpy(), [-0.277770, 0.092590], atol=1e-6)


@pytest.mark.parametrize(("temperature", "expected"), [(0.2, 0.674451), (1.0, 3.100695)])
def test_moco_v3_totals(temperature: float, expected: float) -> None:
    """Both directions, summed and times 2 temperature, which `minimize` gives as a weight."""
    q, k = double([A, B]), double([A, B])
    found = 2 * temperature * loss_of(q, k, temperature=temperature, reduce="sum").item()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "forth", "back"), [(0.2, 1.498770, 0.187359), (1.0, 0.841264, 0.709084)]
)
def test_each_direction_of_moco_v3(temperature: float, forth: float, back: float) -> None:
    """The cross entropies of both queries, which the released code adds."""
    for q, k, expected in ((A, B, forth), (B, A, back)):
        found = loss_of(double([q]), double([k]), temperature=temperature, pairs="all").item()
        assert found == pytest.approx(by_hand(np.array(q), np.array(k), temperature), rel=1e-12)
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 11.9), (0.2, 11.2)])
def test_keys_that_have_nothing_to_do_with_their_queries(
    temperature: float, expected: float
) -> None:
    """A MoCo of 128 dimensions and 65536 keys: ln 65537 + 1 / (2 D T^2), above chance."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 128, 128, generator=generator) for _ in range(2))
    rows = torch.randn(1, 65536, 128, generator=generator)
    found = loss_of(q, k, rows, temperature=temperature, pairs="all").item()
    positives = torch.nn.functional.cosine_similarity(q, k, dim=-1) / temperature
    in_the_mean = found + positives.mean().item()  # over keys: few positives are far from 0
    assert in_the_mean == pytest.approx(math.log(65537) + 1 / (256 * temperature**2), abs=0.01)
    assert in_the_mean == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("temperature", "equal", "apart"), [(0.2, 6.654213, 2.682499), (1.0, 33.271065, 29.272742)]
)
def test_moco_v3_of_4096_images(temperature: float, equal: float, apart: float) -> None:
    ones = torch.ones(2, 4096, 1, dtype=torch.float64)
    total = 4 * temperature * loss_of(ones, ones, temperature=temperature).item()
    assert total == pytest.approx(equal, abs=1e-6)
    right, others = double([[[1.0, 0.0]]]), double([[[0.0, 1.0]]]).expand(1, 4095, 2)
    one = loss_of(right, right, others, temperature=temperature, pairs="all").item()
    assert 4 * temperature * one == pytest.approx(apart, abs=1e-6)
    basis = torch.eye(256, dtype=torch.float64).expand(2, -1, -1)  # in the batch, and fewer
    found = loss_of(basis, basis, temperature=temperature).item()
    assert found == pytest.approx(math.log1p(255 * math.exp(-1 / temperature)), rel=1e-12)


def test_two_orthogonal_images() -> None:
    """ln(1 + 1/e) in each direction, twice that with the factor of MoCo v3: 0.626523."""
    basis = torch.eye(2, dtype=torch.float64).expand(2, -1, -1)
    found = loss_of(basis, basis, temperature=1.0).item()
    assert found == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-12)
    assert 2 * found == pytest.approx(0.626523, abs=1e-6)
    both = loss_of(basis, basis, temperature=1.0, reduce="sum").item()
    assert 2 * both == pytest.approx(1.253047, abs=1e-6)


def test_nnclr_golden() -> None:
    """Queries are the neighbours in the queue, rows (0, 3, 0) and (0, 2, 1), keys predictions."""
    neighbours = double([[QUEUE[0], QUEUE[3], QUEUE[0]], [QUEUE[0], QUEUE[2], QUEUE[1]]])
    predictions = double([A, B])
    found = loss_of(neighbours, predictions, temperature=0.1, pairs="cross").item()
    assert found == pytest.approx(3.002588, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_against_the_formula(views: tuple[Tensor, Tensor, Tensor], temperature: float) -> None:
    q, k, queue = (x.numpy() for x in views)
    found = loss_of(*views[:2], temperature=temperature).item()
    expected = [by_hand(q[0], k[1], temperature), by_hand(q[1], k[0], temperature)]
    assert found == pytest.approx(sum(expected) / 2, rel=1e-12)
    found = loss_of(*views, temperature=temperature, reduce="sum").item()
    expected = [by_hand(q[i], k[1 - i], temperature, queue[0]) for i in range(2)]
    assert found == pytest.approx(sum(expected), rel=1e-12)


def test_with_a_queue_other_images_are_no_negatives(views: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, queue = views
    each = [
        loss_of(q[:, i : i + 1], k[:, i : i + 1], queue, temperature=0.2).item() for i in range(6)
    ]
    found = loss_of(q, k, queue, temperature=0.2).item()
    assert found == pytest.approx(sum(each) / 6, rel=1e-12)


def test_views_of_a_queue_are_rows_of_one(views: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, queue = views
    found = loss_of(q, k, queue.view(3, 3, 5), temperature=0.2)
    assert torch.equal(found, loss_of(q, k, queue, temperature=0.2))


def test_order_and_scale_do_not_matter(views: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, _ = views
    value = loss_of(q, k, temperature=0.2).item()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert loss_of(q[:, order], k[:, order], temperature=0.2).item() == pytest.approx(value)
    assert loss_of(3 * q, 0.2 * k, temperature=0.2).item() == pytest.approx(value)
    assert abs(loss_of(3 * q, k, temperature=0.2, cosine=False).item() - value) > 1e-3
    assert abs(loss_of(q[:, order], k, temperature=0.2).item() - value) > 1e-3


def test_gradients_reach_every_input(views: tuple[Tensor, Tensor, Tensor]) -> None:
    """NNCLR trains through its keys, those of other images too; no loss stops a gradient."""
    q, k, queue = (x.clone().requires_grad_() for x in views)
    torch.autograd.backward(loss_of(q, k, queue, temperature=0.2))
    for x in (q, k, queue):
        assert x.grad is not None
        assert x.grad.abs().max() > 1e-4
        assert (x.grad * x).sum(-1).abs().max() < 1e-12


def test_chance(views: tuple[Tensor, Tensor, Tensor]) -> None:
    ones = torch.ones(2, 8, 3)
    for reduce, count in (("mean", 1), ("sum", 2)):
        node = make_node("info_nce", reduce=reduce)
        sizes = {"V": 2, "V'": 2, "B": 8, "D": 3}
        expected = count * math.log(8)
        assert node.chance(sizes) == pytest.approx(expected)  # type: ignore[operator]
        assert node(ones, ones).item() == pytest.approx(expected)
        expected = count * math.log(1 + 2 * 5)
        found = node.chance({**sizes, "U": 2, "Q": 5})  # type: ignore[operator]
        assert found == pytest.approx(expected)
        assert node(ones, ones, torch.ones(2, 5, 3)).item() == pytest.approx(expected)


def test_the_floor() -> None:
    """Reached by corners of a simplex, and by a queue that points away."""
    corners = torch.eye(4, dtype=torch.float64) - 0.25
    sizes = {"V": 1, "V'": 1, "B": 4}
    node = make_node("info_nce", temperature=0.5, pairs="all")
    found = loss_of(corners[None], corners[None], temperature=0.5, pairs="all").item()
    assert node.floor(sizes) == pytest.approx(found, rel=1e-12)  # type: ignore[operator]
    right = double([[[1.0, 0.0]]])
    away = -right.expand(1, 7, 2)
    found = loss_of(right, right, away, temperature=0.5, pairs="all").item()
    floor = node.floor({**sizes, "U": 1, "Q": 7})  # type: ignore[operator]
    assert floor == pytest.approx(found, rel=1e-12)
    many = make_node("info_nce", temperature=1.0, reduce="sum")
    floor = many.floor({"V": 2, "V'": 2, "B": 4096})  # type: ignore[operator]
    assert 2 * floor == pytest.approx(29.2718, abs=1e-4)
    assert make_node("info_nce", cosine=False).floor(sizes) == 0.0  # type: ignore[operator]


def on_one_rank(rank: int, q: Tensor, k: Tensor, queue: Tensor | None) -> tuple[Tensor, ...]:
    half = q.shape[1] // 2
    mine = slice(rank * half, (rank + 1) * half)
    query, key = (x[:, mine].clone().requires_grad_() for x in (q, k))
    loss = loss_of(query, key, queue, temperature=0.2)
    torch.autograd.backward(loss)
    assert query.grad is not None
    assert key.grad is not None
    return loss.detach(), query.grad, key.grad


@pytest.mark.parametrize("queued", [False, True])
def test_two_processes_are_one(
    on_ranks: OnRanks, views: tuple[Tensor, Tensor, Tensor], queued: bool
) -> None:
    """The mean over ranks of the losses and the gradients is that of the whole batch."""
    q, k = (x.clone().requires_grad_() for x in views[:2])
    queue = views[2] if queued else None
    expected = loss_of(q, k, queue, temperature=0.2)
    torch.autograd.backward(expected)
    results = on_ranks(on_one_rank, q.detach(), k.detach(), queue)
    values = [value.item() for value, _, _ in results]
    assert sum(values) / 2 == pytest.approx(expected.item(), rel=1e-12)
    for place, whole in ((1, q), (2, k)):
        found = torch.cat([result[place] for result in results], 1) / 2
        torch.testing.assert_close(found, whole.grad, rtol=1e-10, atol=1e-14)


def test_evaluation_does_not_wait_for_other_processes(
    on_ranks: OnRanks, views: tuple[Tensor, Tensor, Tensor]
) -> None:
    alone = make_node("info_nce").eval()(*views[:2]).item()
    assert on_ranks(in_evaluation, *views[:2])[0] == pytest.approx(alone)


def in_evaluation(rank: int, q: Tensor, k: Tensor) -> float | None:
    return float(make_node("info_nce").eval()(q, k)) if rank == 0 else None


def test_a_learned_temperature_gets_a_gradient(views: tuple[Tensor, Tensor, Tensor]) -> None:
    node = make_node("info_nce", temperature={"learned": 0.1, "min": 0.01})
    torch.autograd.backward(node(*views))
    assert isinstance(node.temperature, torch.nn.Parameter)
    assert node.temperature.grad is not None
    assert node.temperature.grad.abs() > 1e-3


@pytest.mark.parametrize("queued", [False, True])
def test_autocast_leaves_the_loss_in_single_precision(
    views: tuple[Tensor, Tensor, Tensor], queued: bool
) -> None:
    single = [x.float() for x in views]
    single = single if queued else single[:2]
    loss = make_node("info_nce", temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(*single)
    assert torch.equal(mixed, loss(*single))
    assert loss(*(x.bfloat16() for x in single)).dtype == torch.float32
