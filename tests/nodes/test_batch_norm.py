"""Batch norm: whose samples share statistics, against torch's own and over two processes."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from sslgraph.nodes.base import Context, make_node
from sslgraph.nodes.batch_norm import BatchNorm, replace_batch_norms
from sslgraph.train_spec import BatchNormSpec
from tests.conftest import OnRanks


def norm_like(rule: BatchNormSpec, **keywords: Any) -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Ours, and torch's with the same weights."""
    theirs, taken = nn.BatchNorm1d(4, **keywords), nn.BatchNorm1d(4, **keywords)
    if theirs.affine:
        for norm in (theirs, taken):
            with torch.no_grad():
                norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0]))
                norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 3.0]))
    return BatchNorm(taken, rule), theirs


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def buffers_equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = dict(a.named_buffers()), dict(b.named_buffers())
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize(
    "keywords", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
def test_one_process_is_bit_equal_to_torch(keywords: dict[str, Any]) -> None:
    ours, theirs = norm_like(BatchNormSpec(), **keywords)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for step in range(3):
        x = batch(6, 4, seed=step)
        assert torch.equal(ours(x), theirs(x))
    assert buffers_equal(ours, theirs)
    assert torch.equal(ours.eval()(batch(5, 4)), theirs.eval()(batch(5, 4)))


def test_evaluation_without_running_statistics_has_no_groups() -> None:
    rule = BatchNormSpec(ranks="own", groups=4)
    ours, theirs = norm_like(rule, track_running_stats=False)
    x = batch(5, 4)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    with pytest.raises(ValueError, match="5 rows can't be cut into 4 groups of one size"):
        ours.train()(x)


def head(per: str) -> Any:
    settings = {"hidden": [4], "out": 3, "batch_norm": {"per": per}}
    return make_node("projector", axes={"D": 5}, **settings)


def by_torch(node: Any) -> nn.Sequential:
    """The same head made of torch's modules."""
    plain = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    plain.load_state_dict(node.layers.state_dict())
    return plain


def test_per_view_is_one_call_a_view() -> None:
    node, x = head("view"), batch(3, 6, 5)
    plain = by_torch(node)
    assert torch.equal(node(x), torch.stack([plain(view) for view in x]))
    assert buffers_equal(node.layers, plain)


def test_per_none_is_one_call_on_the_concatenation() -> None:
    node, x = head("none"), batch(3, 6, 5)
    plain = by_torch(node)
    assert torch.equal(node(x), plain(x.flatten(0, 1)).unflatten(0, (3, 6)))
    assert buffers_equal(node.layers, plain)
    assert not torch.allclose(node(x), head("view")(x))


def test_evaluation_takes_running_statistics() -> None:
    for per in ("view", "none"):
        node = head(per)
        node(batch(2, 6, 5))
        plain = by_torch(node).eval()
        node.eval()
        x = batch(2, 6, 5, seed=3)
        assert torch.equal(node(x), plain(x.flatten(0, 1)).unflatten(0, (2, 6)))


def test_the_rule_of_the_node_beats_the_rule_of_the_run() -> None:
    from sslgraph.nodes.heads import Projector

    run = Context(batch_norm=BatchNormSpec(per="none", ranks="own"))
    node = Projector(axes={"D": 5}, context=run, hidden=[4], out=3)
    assert [(m.per, m.ranks) for m in node.modules() if isinstance(m, BatchNorm)] == [
        ("none", "own")
    ]
    own = Projector(axes={"D": 5}, context=run, hidden=[4], out=3, batch_norm={"per": "view"})
    assert [(m.per, m.ranks) for m in own.modules() if isinstance(m, BatchNorm)] == [
        ("view", "all")
    ]


def trained(rank: int, x: Tensor, ranks: str, grad: Tensor) -> dict[str, Tensor]:
    """One forward and backward on this rank's rows."""
    rows = x.shape[0] // 2 if rank >= 0 else x.shape[0]
    place = slice(max(rank, 0) * rows, max(rank, 0) * rows + rows)
    ours, _ = norm_like(BatchNormSpec(ranks=ranks))  # type: ignore[arg-type]
    ours = ours.double()
    mine = x[place].clone().requires_grad_()
    y = ours(mine)
    (y * grad[place]).sum().backward()
    assert mine.grad is not None
    assert ours.weight is not None
    assert ours.bias is not None
    found = {"y": y.detach(), "x": mine.grad, "weight": ours.weight.grad, "bias": ours.bias.grad}
    found |= dict(ours.named_buffers())
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 3)])
def test_statistics_of_all_ranks_are_those_of_one_process(
    on_ranks: OnRanks, shape: tuple[int, ...]
) -> None:
    x, grad = batch(*shape).double(), batch(*shape, seed=9).double()
    one = trained(-1, x, "all", grad)
    two = on_ranks(trained, x, "all", grad)
    for name in ("y", "x"):
        joined = torch.cat([part[name] for part in two])
        torch.testing.assert_close(joined, one[name], rtol=1e-9, atol=1e-12)
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(part[name] for part in two), one[name])
    for part in two:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(part[name], one[name], rtol=1e-12, atol=1e-12)


def test_statistics_of_each_rank_are_its_own(on_ranks: OnRanks) -> None:
    x, grad = batch(8, 4).double(), batch(8, 4, seed=9).double()
    two = on_ranks(trained, x, "own", grad)
    for rank, part in enumerate(two):
        alone = trained(-1, x[rank * 4 : rank * 4 + 4], "own", grad[rank * 4 : rank * 4 + 4])
        for name, value in alone.items():
            assert torch.equal(part[name], value), name
    assert not torch.allclose(two[0]["running_mean"], two[1]["running_mean"])


@pytest.mark.parametrize(
    "arch", ["test_efficientnet", "test_resnet", "test_byobnet", "test_convnext", "test_vit"]
)
def test_timm_models_compute_the_same_after_the_replacement(arch: str) -> None:
    """timm's norms carry an activation; losing it would leave a model that still trains."""
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=0)
    kept = timm.create_model(arch, num_classes=0)
    kept.load_state_dict(model.state_dict())
    replace_batch_norms(model, BatchNormSpec())
    had = sum(isinstance(m, nn.BatchNorm2d) for m in kept.modules())
    assert sum(isinstance(m, BatchNorm) for m in model.modules()) == had
    assert model.state_dict().keys() == kept.state_dict().keys()
    x = batch(4, 3, 96, 96)
    for _ in range(2):
        torch.manual_seed(1)  # timm's dropout
        found = model(x)
        torch.manual_seed(1)
        assert torch.equal(found, kept(x))
    assert buffers_equal(model, kept)
    assert torch.equal(model.eval()(x), kept.eval()(x))
