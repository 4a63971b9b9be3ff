"""Who shares batch statistics: shuffled and grouped samples, against torch's modules by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslgraph.nodes.base import Context, Node, SettingError, make_node
from sslgraph.nodes.heads import Projector
from sslgraph.nodes.teachers import Ema
from sslgraph.ports import In, Out
from sslgraph.train_spec import BatchNormSpec
from tests.conftest import RANKS, OnRanks
from tests.methods.simclr_by_hand import mix, text_key

VIEWS, BATCH, WIDTH = 3, 4, 5
Found = dict[str, Tensor]


class Carries(Node, use="toy_carries"):
    """Batch norm beside what is only handed on: samples of other kinds, and one without samples."""

    x = In("embedding", "B D")
    hidden = In("mask", "B D", optional=True)
    table = In("embedding", "K D", optional=True)
    y = Out("embedding", "B D", main=True)
    same = Out("embedding", "B D")
    masked = Out("tokens", "B N D")

    norm: nn.Module

    class Config(Node.Config):
        batch_norm: BatchNormSpec | None = None

    def build(self, D: int) -> None:
        self.norm = nn.BatchNorm1d(D)
        self.register_buffer("table_seen", torch.zeros(6, D), persistent=False)

    def forward(self, x: Tensor, hidden: Tensor | None, table: Tensor | None) -> Any:
        if table is not None:
            self.get_buffer("table_seen").copy_(table)
        masked = x if hidden is None else x.masked_fill(hidden, 0)
        return self.Outputs(self.norm(x), x.clone(), masked[:, None].expand(-1, 2, -1))


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double() * 3 + 1


def head(name: str = "node", seed: int = 0, **rule: Any) -> Projector:
    """A head with batch norm in float64."""
    context = Context(name=name, seed=seed)
    return Projector(
        axes={"D": WIDTH}, context=context, hidden=[4], out=3, batch_norm=rule
    ).double()


def by_torch(node: Projector) -> nn.Sequential:
    plain = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    plain.double().load_state_dict(node.layers.state_dict())
    return plain


def permutation(call: int, count: int, name: str = "node", seed: int = 0) -> list[int]:
    """The documented formula, on plain integers."""
    key = text_key(f"{seed}/{name}") & (2**63 - 1)
    words = [mix(text_key("shuffle"), key, call, row) for row in range(count)]
    return sorted(range(count), key=lambda row: words[row] - (words[row] >> 63 << 64))


def trained(rank: int, rule: dict[str, Any], x: Tensor, grad: Tensor) -> Found:
    """One forward and backward of a head on this rank's samples; -1: on what is given."""
    node = head(**rule)
    mine = (x[rank] if rank >= 0 else x).clone().requires_grad_()
    y = node(mine)
    (y * (grad[rank] if rank >= 0 else grad)).sum().backward()
    assert mine.grad is not None
    weights = {f"grad of {k}": p.grad for k, p in node.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": mine.grad, **weights, **node.state_dict()}


def by_hand(per: str, parts: int, x: Tensor, grad: Tensor) -> Found:
    """Rows of all processes, permuted, cut into parts of their own statistics and put back.

    Shapes: x and grad ranks V B D; state dicts of the parts are stacked.
    """
    plains = [by_torch(head()) for _ in range(parts)]
    rows = x.clone().requires_grad_()
    views = rows.unbind(1) if per == "view" else [rows.flatten(1, 2)]
    results = []
    for call, view in enumerate(views):
        flat = view.flatten(0, 1)
        order = permutation(call, len(flat))
        pieces = flat[order].chunk(parts)
        seen = torch.cat([plain(piece) for plain, piece in zip(plains, pieces, strict=True)])
        back = torch.empty_like(seen)
        for place, row in enumerate(order):
            back[row] = seen[place]
        results.append(back.view(*view.shape[:2], -1))
    y = torch.stack(results, 1) if per == "view" else results[0].unflatten(1, (x.shape[1], -1))
    (y * grad).sum().backward()
    assert rows.grad is not None
    found = {"y": y.detach(), "x": rows.grad}
    for name, _ in plains[0].named_parameters():
        grads = [p.grad for plain in plains for k, p in plain.named_parameters() if k == name]
        found[f"grad of layers.{name}"] = torch.stack([g for g in grads if g is not None]).sum(0)
    for name, _ in plains[0].named_buffers():
        found[f"layers.{name}"] = torch.stack([plain.state_dict()[name] for plain in plains])
    return found


def agree(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("per", ["view", "none"])
@pytest.mark.parametrize("groups", [1, 2])
def test_two_processes_compute_what_the_permutation_by_hand_says(
    on_ranks: OnRanks, per: str, groups: int
) -> None:
    x, grad = values(RANKS, VIEWS, BATCH, WIDTH), values(RANKS, VIEWS, BATCH, 3, seed=1)
    expected = by_hand(per, RANKS * groups, x, grad)
    rule = {"ranks": "shuffled", "per": per, "groups": groups}
    found = on_ranks(trained, rule, x, grad)
    for rank, part in enumerate(found):
        agree(part["y"], expected["y"][rank])
        agree(part["x"], expected["x"][rank])
        own = slice(rank * groups, (rank + 1) * groups)
        for name in ("running_mean", "running_var"):
            agree(part[f"layers.1.{name}"], expected[f"layers.1.{name}"][own].mean(0))
        calls = VIEWS if per == "view" else 1
        assert part["layers.1.num_batches_tracked"] == part["shuffles"] == calls
    for name in [key for key in expected if key.startswith("grad of")]:
        agree(sum(part[name] for part in found), expected[name])


def test_groups_are_shuffled_in_one_process() -> None:
    x, grad = values(1, VIEWS, BATCH, WIDTH), values(1, VIEWS, BATCH, 3, seed=1)
    expected = by_hand("view", 2, x, grad)
    found = trained(-1, {"ranks": "shuffled", "groups": 2}, x[0], grad[0])
    agree(found["y"], expected["y"][0])
    agree(found["x"], expected["x"][0])
    agree(found["layers.1.running_var"], expected["layers.1.running_var"].mean(0))


@pytest.mark.parametrize("per", ["view", "none"])
def test_two_groups_are_two_processes(on_ranks: OnRanks, per: str) -> None:
    x, grad = values(RANKS, VIEWS, BATCH, WIDTH), values(RANKS, VIEWS, BATCH, 3, seed=1)
    two = on_ranks(trained, {"ranks": "own", "per": per}, x, grad)
    joined, joined_grad = torch.cat(list(x), 1), torch.cat(list(grad), 1)
    one = trained(-1, {"ranks": "own", "per": per, "groups": 2}, joined, joined_grad)
    assert torch.equal(one["y"], torch.cat([part["y"] for part in two], 1))
    assert torch.equal(one["x"], torch.cat([part["x"] for part in two], 1))
    for name in ("running_mean", "running_var"):
        agree(
            one[f"layers.1.{name}"], (two[0][f"layers.1.{name}"] + two[1][f"layers.1.{name}"]) / 2
        )
    for name in [key for key in one if key.startswith("grad of")]:
        agree(one[name], two[0][name] + two[1][name])


def carried(rank: int, rule: dict[str, Any], x: Tensor) -> tuple[Tensor, ...]:
    """What `toy_carries` hands on of this rank's samples, with gradient and without."""
    node = make_node("toy_carries", axes={"D": WIDTH}, batch_norm=rule).double()
    mine = x[rank].clone().requires_grad_()
    table = values(6, WIDTH, seed=9)
    result: Any = node(x=mine, hidden=mine > 1, table=table)
    result.same.square().sum().backward()
    assert mine.grad is not None
    with torch.no_grad():
        silent: Any = node(x=mine, hidden=mine > 1, table=table)
    assert not silent.same.requires_grad
    seen = node.get_buffer("table_seen")
    tensors = (result.same, result.masked, silent.same, silent.masked, mine.grad, seen)
    return tuple(t.detach() for t in tensors)


@pytest.mark.parametrize("per", ["view", "none"])
def test_every_output_comes_back_in_order(on_ranks: OnRanks, per: str) -> None:
    x = values(RANKS, VIEWS, BATCH, WIDTH)
    rule = {"ranks": "shuffled", "per": per, "groups": 2}
    for rank, (same, kept, silent, silent_kept, grad, table) in enumerate(
        on_ranks(carried, rule, x)
    ):
        masked = x[rank].masked_fill(x[rank] > 1, 0)[:, :, None].expand(-1, -1, 2, -1)
        assert torch.equal(same, x[rank])
        assert torch.equal(silent, x[rank])
        assert torch.equal(kept, masked)
        assert torch.equal(silent_kept, masked)
        assert torch.equal(grad, 2 * x[rank])
        assert torch.equal(table, values(6, WIDTH, seed=9))


def test_several_outputs_in_one_process() -> None:
    x = values(VIEWS, BATCH, WIDTH)
    for rule in (
        {"ranks": "shuffled", "groups": 2},
        {"ranks": "own", "per": "none", "groups": 2},
    ):
        node = make_node("toy_carries", axes={"D": WIDTH}, batch_norm=rule).double()
        result: Any = node(x)
        assert torch.equal(result.same, x)
        assert not torch.equal(result.y, x)
        assert torch.equal(result.masked, x[:, :, None].expand(-1, -1, 2, -1))


def test_tokens_of_a_sample_stay_together() -> None:
    x = values(2, BATCH, 3, WIDTH)
    rule: dict[str, Any] = {"ranks": "shuffled", "per": "none", "groups": 2}
    node = head(**rule)
    plain = by_torch(node)
    rows = x.flatten(0, 1)
    order = permutation(0, len(rows))
    halves = [plain(rows[places].flatten(0, 1)) for places in (order[:4], order[4:])]
    seen = torch.cat(halves).unflatten(0, (len(rows), 3))
    agree(node(x).flatten(0, 1)[order], seen)


def test_one_process_without_groups_is_plain() -> None:
    shuffled, own = head(ranks="shuffled"), head(ranks="own")
    for step in range(2):
        x = values(VIEWS, BATCH, WIDTH, seed=step)
        assert torch.equal(shuffled(x), own(x))
    assert shuffled.get_buffer("shuffles") == 0
    for name, value in own.state_dict().items():
        assert torch.equal(shuffled.state_dict()[name], value)


def test_each_call_node_and_run_has_a_permutation_of_its_own() -> None:
    x = values(1, 64, WIDTH)
    rule: dict[str, Any] = {"ranks": "shuffled", "groups": 2}
    node = head(**rule)
    first, second = node(x), node(x)
    assert not torch.allclose(first, second)
    for other in (head("other", **rule), head(seed=1, **rule)):
        other.load_state_dict(head(**rule).state_dict())
        assert not torch.allclose(other(x), first)
    agree(head(**rule)(x), first)


def test_evaluation_takes_running_statistics_and_writes_nothing() -> None:
    rules: list[dict[str, Any]] = [
        {"ranks": "shuffled", "groups": 2},
        {"ranks": "own", "per": "none", "groups": 4},
    ]
    for rule in rules:
        node = head(**rule)
        node(values(VIEWS, BATCH, WIDTH))
        before = {name: value.clone() for name, value in node.state_dict().items()}
        x = values(VIEWS, 3, WIDTH, seed=4)  # which no group size divides
        found = node.eval()(x)
        assert torch.equal(found, by_torch(node).eval()(x.flatten(0, 1)).unflatten(0, (VIEWS, 3)))
        for name, value in node.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_a_state_dict_goes_on_where_it_stopped() -> None:
    rule: dict[str, Any] = {"ranks": "shuffled", "groups": 2}
    used, fresh = head(**rule), head(**rule)
    used(values(2, BATCH, WIDTH))
    state = used.state_dict()
    assert state["shuffles"].dtype == torch.int64
    assert state["shuffles"] == 2
    fresh.load_state_dict(state)
    x = values(2, BATCH, WIDTH, seed=1)
    assert torch.equal(used(x), fresh(x))


def test_a_slow_copy_shuffles_otherwise_and_averages_no_count() -> None:
    original = head(ranks="shuffled", groups=2)
    copied = Ema(of=original, context=Context(name="key"), momentum=0.5)
    x = values(1, 64, WIDTH)
    plain = by_torch(original)
    first = copied(x)
    order = permutation(0, 64, name="key.projector0")
    halves = [plain(x[0, places]) for places in (order[:32], order[32:])]
    agree(first[0, order], torch.cat(halves))
    for _ in range(3):
        original(x)
    copied.write()
    (own,) = copied.members.children()
    assert original.get_buffer("shuffles") == original.layers[1].num_batches_tracked == 3
    assert own.get_buffer("shuffles") == own.get_buffer("layers.1.num_batches_tracked") == 1


def test_a_batch_that_does_not_divide_says_what_to_do() -> None:
    text = (
        r"^batch_norm.groups: 6 samples can't be cut into 4 groups of one size; let each process "
        r"have a multiple of that a forward pass \(train.batch_size divided by train.accumulate "
        r"and by the number of processes\), or change 'groups'$"
    )
    for ranks, per in product(("own", "shuffled"), ("view", "none")):
        node = head(ranks=ranks, per=per, groups=4)
        with pytest.raises(ValueError, match=text):
            node(values(2, 6, WIDTH))  # 12 rows would divide, 6 samples do not
        assert node.layers[1].num_batches_tracked == 0
    assert head(ranks="shuffled", groups=4).to("meta")(
        torch.empty(2, 11, WIDTH, device="meta")
    ).shape == (2, 11, 3)


def test_a_node_that_takes_all_views_at_once_refuses() -> None:
    class Whole(Node, use="toy_whole"):
        """Spells the view axis."""

        x = In("embedding", "V B D")
        y = Out("embedding", "V B D")
        norm: nn.Module

        class Config(Node.Config):
            batch_norm: BatchNormSpec | None = None

        def build(self, D: int) -> None:
            self.norm = nn.BatchNorm1d(D)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x.flatten(0, 1))
            return y.view_as(x)

    Whole(axes={"D": 3}, batch_norm="own")
    with pytest.raises(SettingError, match="toy_whole takes all views at once") as caught:
        Whole(axes={"D": 3}, batch_norm="shuffled")
    assert caught.value.path == ("batch_norm",)


def test_a_run_whose_batch_does_not_divide_is_refused_when_built() -> None:
    context = Context(samples=20)
    with pytest.raises(SettingError, match="20 samples can't be cut into 8 groups of one size"):
        Projector(axes={"D": 5}, context=context, batch_norm={"ranks": "own", "groups": 8})
