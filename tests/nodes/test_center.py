"""The center: used first and moved after, over all rows of all processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import Context, make_node
from sslgraph.nodes.targets import Center
from tests.conftest import OnRanks

TEACHER = torch.arange(1, 17, dtype=torch.float64).cos().view(2, 2, 4)
AFTER = [0.020507025, -0.003957772, -0.024783811, -0.022823729]


def double_center(**settings: Any) -> Any:
    node = make_node("center", axes={"K": 4}, **settings).double()
    node.momentum = torch.tensor(0.9, dtype=torch.float64)
    return node


def written(node: Any, x: Tensor, weight: Tensor | None = None) -> Any:
    with torch.no_grad():
        node.write(x=x, weight=weight)
    return node


def test_it_begins_at_zero_and_moves_to_the_mean_of_all_rows() -> None:
    node = double_center()
    assert torch.equal(node(TEACHER), TEACHER)
    written(node, TEACHER)
    assert node.center[0].tolist() == pytest.approx(AFTER, abs=1e-9)
    assert torch.equal(node(TEACHER), TEACHER - node.center[0])
    assert "center" in node.state_dict()


def test_it_follows_the_logits_and_not_what_is_left_of_them() -> None:
    """c -> mean(x), where x is constant; of centred logits it would stay below."""
    node, x = double_center(), torch.ones(2, 3, 4, dtype=torch.float64)
    for step in range(1, 60):
        written(node, x)
        assert node.center[0, 0].item() == pytest.approx(1 - 0.9**step)


def test_tokens_count_one_by_one() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    node = written(double_center(), x)
    torch.testing.assert_close(node.center[0], 0.1 * x.mean((0, 1, 2)))
    torch.testing.assert_close(node(x), x - node.center[0])


def test_a_center_for_each_view() -> None:
    context = Context(views={"x": ("crops.global.0", "crops.global.1")})
    node: Any = Center(axes={"K": 4}, context=context, per="view")
    x = TEACHER.float()
    written(node, x)
    torch.testing.assert_close(node.center, 0.1 * x.mean(1))
    torch.testing.assert_close(node(x), x - 0.1 * x.mean(1, keepdim=True))
    torch.testing.assert_close(node.eval()(x[:1]), x[:1] - 0.1 * x.mean((0, 1)))


@pytest.mark.parametrize("per", ["none", "view"])
def test_rows_of_weight_zero_are_not_in_the_mean(per: str) -> None:
    """They may be padding, and hold anything."""
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weight = torch.tensor([[[0.5, 0.5, 0, 0, 0], [0] * 5, [1, 0, 0, 0, 0]]]).double()
    x[:, 1] = torch.inf
    node: Any = Center(axes={"K": 4}, context=Context(views={"x": ("a", "b")}), per=per).double()
    node.momentum = torch.tensor(0.9, dtype=torch.float64)
    written(node, x, weight)
    means = x[:, weight[0] > 0].mean(1)
    expected = 0.1 * (means if per == "view" else means.mean(0, keepdim=True))
    torch.testing.assert_close(node.center, expected)
    kept = node.center.clone()
    written(node, x, torch.zeros_like(weight))
    assert torch.equal(node.center, kept)


def test_views_are_not_known_outside_a_graph() -> None:
    with pytest.raises(ValueError, match="not known how many views"):
        make_node("center", axes={"K": 4}, per="view")


def test_half_precision_is_centred_in_single() -> None:
    node = written(make_node("center", axes={"K": 4}), TEACHER.bfloat16())
    assert node(TEACHER.bfloat16()).dtype == torch.float32
    assert node.center.dtype == torch.float32


def center_of_rank(rank: int, x: Tensor, ranks: str) -> Tensor:
    node = written(double_center(ranks=ranks), x[:, rank * 3 : rank * 3 + 3])
    return node.center[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("ranks", ["all", "own"])
def test_two_processes(on_ranks: OnRanks, ranks: str) -> None:
    """`all` equals one process with the whole batch, `own` each half for itself."""
    x = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    whole = written(double_center(), x).center[0]
    found = on_ranks(center_of_rank, x, ranks)
    for rank, center in enumerate(found):
        expected = whole if ranks == "all" else x[:, rank * 3 : rank * 3 + 3].mean((0, 1)) / 10
        torch.testing.assert_close(center, expected)
