"""Balanced assignment: the published steps, their golden numbers, and what never changes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslgraph.nodes.base import make_node
from sslgraph.nodes.sinkhorn import Sinkhorn
from tests.conftest import OnRanks

# Computed with SwAV's released function: 4 samples, 3 prototypes, temperature 0.05, 3 iterations.
S = [[0.9, 0.1, 0], [0.8, 0.2, 0.1], [0.7, 0, 0.6], [0.5, 0.4, 0.3]]
CODES = [
    [0.993071, 0.006905, 0.000024],
    [0.724141, 0.274895, 0.000964],
    [0.004592, 0.000236, 0.995172],
    [0.000119, 0.996386, 0.003495],
]
# Computed with DINOv2's released function: temperature 0.07, 3 iterations.
TEACHER = [[0.1, 0.2, 0.3], [0.3, 0.1, 0], [0.2, 0.2, 0.1], [0, 0.4, 0.1]]
TARGETS = [
    [0.024780, 0.051318, 0.923903],
    [0.945200, 0.026942, 0.027858],
    [0.497639, 0.246983, 0.255378],
    [0.006234, 0.938059, 0.055707],
]


def published(q: NDArray[np.float64], iterations: int = 3) -> NDArray[np.float64]:
    """SwAV's loop over Q, rows x prototypes: by its sum, prototypes to 1/K, samples to 1/B."""
    q = q.T / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdims=True) / q.shape[0]
        q = q / q.sum(0, keepdims=True) / q.shape[1]
    codes: NDArray[np.float64] = (q * q.shape[1]).T
    return codes


def sinkhorn(temperature: float | None = 0.05, **settings: Any) -> Any:
    node = Sinkhorn(temperature=temperature, **settings).double()
    if temperature is not None:
        node.temperature = torch.tensor(temperature, dtype=torch.float64)
    return node


def scores(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def by_hand(x: Tensor, temperature: float = 0.05, iterations: int = 3) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).numpy() / temperature
    return torch.from_numpy(published(np.exp(rows), iterations)).view_as(x)


def test_the_golden_numbers_of_swav() -> None:
    found = sinkhorn()(torch.tensor([S]).double())[0]
    torch.testing.assert_close(found, torch.tensor(CODES).double(), atol=1e-6, rtol=0)
    # the loop ends on the samples, so prototypes are used about alike, not exactly
    mass = torch.tensor([1.2914, 0.9588, 0.7497]).double()
    torch.testing.assert_close(found.sum(0) * 3 / 4, mass, atol=1e-4, rtol=0)


def test_the_golden_numbers_of_dinov2() -> None:
    found = make_node("sinkhorn", temperature=0.07)(torch.tensor([TEACHER]))[0]
    torch.testing.assert_close(found, torch.tensor(TARGETS), atol=2e-6, rtol=0)
    mass = torch.tensor([1.4739, 1.2633, 1.2628])
    torch.testing.assert_close(found.sum(0), mass, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("iterations", "rows"),
    [
        (1, [[0.593845, 0.406155], [0.349755, 0.650245]]),
        (3, [[0.622358, 0.377642], [0.377439, 0.622561]]),
        (200, [[0.622459, 0.377541], [0.377541, 0.622459]]),
    ],
)
def test_the_golden_numbers_of_each_length(iterations: int, rows: list[list[float]]) -> None:
    x = torch.tensor([[[2.0, 0], [1, 0]]]).double()
    found = sinkhorn(1.0, iterations=iterations)(x)[0]
    torch.testing.assert_close(found, torch.tensor(rows).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("shape", [(1, 12, 5), (2, 6, 5), (2, 3, 4, 5)])
def test_it_is_the_published_loop(shape: tuple[int, ...], iterations: int) -> None:
    x = scores(*shape)
    found = sinkhorn(iterations=iterations)(x)
    torch.testing.assert_close(found, by_hand(x, iterations=iterations))


def test_probabilities_are_balanced_as_they_come() -> None:
    """MSN gives the sharpened probabilities of the teacher in the place of exp(x / T)."""
    x = scores(1, 7, 4).softmax(-1) ** 4
    x = x / x.sum(-1, keepdim=True)
    expected = torch.from_numpy(published(x[0].numpy()))
    torch.testing.assert_close(sinkhorn(None)(x)[0], expected)


def test_each_view_alone_or_all_together() -> None:
    x = scores(2, 6, 5)
    alone = sinkhorn(per="view")(x)
    torch.testing.assert_close(alone, torch.stack([by_hand(view) for view in x]))
    assert not torch.allclose(alone, sinkhorn()(x))


def test_rows_that_do_not_count_change_nothing() -> None:
    x, weight = scores(2, 3, 4, 5), (scores(2, 3, 4, seed=1) > 0).double() * 0.25
    assert 0 < weight.count_nonzero() < weight.numel()
    found = sinkhorn()(x, weight=weight)
    torch.testing.assert_close(found[weight > 0], by_hand(x[weight > 0]))
    changed = torch.where(weight[..., None] > 0, x, 100 * x)
    assert torch.equal(found[weight > 0], sinkhorn()(changed, weight=weight)[weight > 0])
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 4).double())


def test_no_row_may_count() -> None:
    found = sinkhorn()(scores(1, 4, 5), weight=torch.zeros(1, 4).double())
    assert found.isfinite().all()


def test_extra_rows_are_assigned_along_and_left_out() -> None:
    x, extra = scores(2, 4, 5), scores(2, 6, 5, seed=1)
    pooled = by_hand(torch.cat([x.flatten(0, 1), extra.flatten(0, 1)]))[:8].view_as(x)
    torch.testing.assert_close(sinkhorn()(x, extra=extra), pooled)
    alone = [by_hand(torch.cat(pair))[:4] for pair in zip(x, extra, strict=True)]
    torch.testing.assert_close(sinkhorn(per="view")(x, extra=extra), torch.stack(alone))
    one = [by_hand(torch.cat([view, extra[0]]))[:4] for view in x]
    found = sinkhorn(per="view")(x, extra=extra[:1])
    torch.testing.assert_close(found, torch.stack(one))


def test_a_queue_that_is_not_full_takes_no_part() -> None:
    x, extra = scores(2, 4, 5), scores(2, 6, 5, seed=1)
    weight = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).double()
    found = sinkhorn(per="view")(x, extra=extra, extra_weight=weight)
    torch.testing.assert_close(found[0], by_hand(torch.cat([x[0], extra[0, :2]]))[:4])
    torch.testing.assert_close(found[1], by_hand(x[1]))


def test_what_changes_nothing() -> None:
    x = scores(2, 6, 5)
    codes = sinkhorn()(x)
    torch.testing.assert_close(codes.sum(-1), torch.ones(2, 6).double())
    torch.testing.assert_close(sinkhorn()(x + 7), codes)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(sinkhorn()(x[..., order]), codes[..., order])
    images = torch.tensor([5, 1, 0, 2, 4, 3])
    torch.testing.assert_close(sinkhorn()(x[:, images]), codes[:, images])


def test_equal_samples_use_all_prototypes_alike() -> None:
    x = scores(1, 1, 5).expand(1, 6, 5)
    torch.testing.assert_close(sinkhorn()(x), torch.full((1, 6, 5), 0.2).double())


def test_a_small_temperature_is_a_balanced_choice() -> None:
    """Three samples and three prototypes: the permutation with the largest sum of scores."""
    x = torch.tensor([[[0.9, 0.8, 0.1], [0.8, 0.1, 0.0], [0.3, 0.2, 0.1]]]).double()
    found = sinkhorn(iterations=500)(x)[0]
    chosen = torch.eye(3).double()[torch.tensor([1, 0, 2])]  # row 0 likes 0 best, row 1 needs it
    torch.testing.assert_close(found, chosen, atol=0.03, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_far_apart_overflow_nothing(dtype: torch.dtype) -> None:
    x = torch.tensor([[[3000.0, -3000, 0], [-3000, 0, -3000], [1, 2, -3000]]], dtype=dtype)
    found = make_node("sinkhorn", temperature=0.04)(x)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 3))


def test_a_prototype_without_use_is_no_division_by_zero() -> None:
    x = torch.tensor([[[0.0, 1, -1e4], [1, 0, -1e4]]])
    found = make_node("sinkhorn", temperature=1.0)(x)
    expected = by_hand(x[..., :2].double(), temperature=1.0).float()
    torch.testing.assert_close(found[..., :2], expected)
    assert not found[..., 2].any()


def test_autocast_leaves_it_in_single_precision() -> None:
    x = torch.tensor([S])
    with torch.autocast("cpu", torch.bfloat16):
        found = make_node("sinkhorn", temperature=0.05)(x)
    torch.testing.assert_close(found[0], torch.tensor(CODES), atol=2e-6, rtol=0)


def test_no_gradient_passes() -> None:
    x = scores(1, 4, 5).requires_grad_()
    assert not sinkhorn()(x).requires_grad


def test_evaluation_balances_the_batch_it_gets() -> None:
    x, extra = scores(1, 4, 5), scores(2, 6, 5, seed=1)
    found = sinkhorn(per="view").eval()(x, extra=extra)
    torch.testing.assert_close(found, by_hand(x))


def codes_of_rank(rank: int, x: Tensor, extra: Tensor, weight: Tensor, ranks: str) -> Tensor:
    mine = slice(rank * 3, rank * 3 + 3)
    node = sinkhorn(per="view", ranks=ranks)
    return node(x[:, mine], weight=weight[:, mine], extra=extra)  # type: ignore[no-any-return]


@pytest.mark.parametrize("ranks", ["all", "own"])
def test_two_processes(on_ranks: OnRanks, ranks: str) -> None:
    """`all` equals one process with the whole batch; the rows of a queue count once."""
    x, extra = scores(2, 6, 5), scores(2, 4, 5, seed=1)
    x[:, 3:] += 3  # the largest score of all is on one rank
    weight = torch.tensor([[1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).double()
    whole = sinkhorn(per="view")(x, weight=weight, extra=extra)
    found = on_ranks(codes_of_rank, x, extra, weight, ranks)
    for rank, codes in enumerate(found):
        mine = slice(rank * 3, rank * 3 + 3)
        alone = sinkhorn(per="view")(x[:, mine], weight=weight[:, mine], extra=extra)
        torch.testing.assert_close(codes, whole[:, mine] if ranks == "all" else alone)
    assert not torch.allclose(whole[:, :3], found[0]) or ranks == "all"
