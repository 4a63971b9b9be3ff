"""The queue against a plain list of rows, what a graph makes of it, and two processes."""

from __future__ import annotations

import copy
import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import Context
from sslgraph.nodes.memory import Queue
from sslgraph.train.groups import parameter_groups
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train.step import Updater
from sslgraph.train_spec import LearningRate
from tests.conftest import OnRanks
from tests.toys import compiled, graph, images

NODES: dict[str, Any] = {
    "views": {"use": "toy_noise", "in": "batch.image"},
    "pixels": {"use": "toy_pixels", "in": "views.0"},
    "head": {"use": "toy_scale", "in": "pixels"},
    "key": {"use": "ema", "of": ["pixels", "head"], "in": "views.1", "momentum": 0.9},
    "queue": {"use": "queue", "in": "key", "size": 12},
    "loss": {"use": "toy_far", "in": {"a": "head", "items": "queue"}},
}


def queue(size: int, *, views: int = 1, width: int = 3, **settings: Any) -> Any:
    return Queue(axes={"V": views, "D": width}, context=Context("queue"), size=size, **settings)


def keys(count: int, *, views: int = 1, width: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, count, width, generator=generator) * 3


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def write(node: Any, x: Tensor) -> None:
    with torch.no_grad():
        node.write(x=x)


def one_by_one(rows: Tensor, place: int, x: Tensor) -> int:
    """Store row after row in the place of the oldest, in a V x size x D tensor."""
    for row in x.unbind(1):
        rows[:, place] = unit(row)
        place = (place + 1) % rows.shape[1]
    return place


def batch(seed: int = 0) -> dict[str, Tensor]:
    return {"image": images(seed=seed), "index": torch.arange(5)}


def moco() -> Method:
    return compiled(NODES, outputs={"embedding": "head", "memory": "queue"})


def test_it_starts_with_random_directions_of_its_own_seed() -> None:
    rows = queue(4000).rows
    assert rows.shape == (1, 4000, 3)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(1, 4000))
    # uniform on the sphere: mean 0 and, in each direction, variance 1/3
    assert rows.mean(1).abs().max() < 4 / math.sqrt(3 * 4000)
    assert (rows.var(1) - 1 / 3).abs().max() < 0.03
    assert torch.equal(rows, queue(4000).rows)
    other = Queue(axes={"V": 1, "D": 3}, context=Context("bank"), size=4000)
    assert not torch.equal(rows, other.rows)


@pytest.mark.parametrize("batches", [[4, 4], [4, 4, 4, 4], [3, 5, 1, 7, 10], [10], [25], [7, 31]])
def test_it_is_a_ring_of_the_newest_rows(batches: list[int]) -> None:
    node = queue(10, views=2)
    expected, place = node.rows.clone(), 0
    for number, count in enumerate(batches):
        x = keys(count, views=2, seed=number)
        write(node, x)
        place = one_by_one(expected, place, x)
        torch.testing.assert_close(node().items, expected)
        assert node.place.item() == place
    assert node.place.dtype == torch.int64


def test_a_step_changes_the_rows_at_the_pointer_and_nothing_else() -> None:
    node = queue(10)
    write(node, keys(4))
    before, place, x = node().items, int(node.place), keys(3, seed=1)
    write(node, x)
    after = node().items
    torch.testing.assert_close(after[:, place : place + 3], unit(x))
    assert torch.equal(after[:, :place], before[:, :place])
    assert torch.equal(after[:, place + 3 :], before[:, place + 3 :])


def test_rows_may_be_stored_as_they_come() -> None:
    node = queue(6, normalize=False)
    write(node, keys(2))
    assert torch.equal(node().items[:, :2], keys(2))


def test_half_precision_keys_become_unit_rows_of_float32() -> None:
    node = queue(6)
    write(node, keys(2).bfloat16())
    assert node().items.dtype == torch.float32
    torch.testing.assert_close(node().items[:, :2], unit(keys(2).bfloat16().float()))


def test_what_was_read_stays_for_the_backward_after_the_write() -> None:
    node = queue(6)
    query = keys(2, seed=5).requires_grad_()
    read = node().items
    kept = read.clone()
    loss = (query @ read.transpose(1, 2)).square().sum()
    write(node, keys(6))
    loss.backward()
    assert torch.equal(read, kept)
    assert not torch.equal(node().items, kept)
    similarity = query.detach() @ kept.transpose(1, 2)
    torch.testing.assert_close(query.grad, 2 * similarity @ kept)


def test_the_state_dict_goes_on_at_the_same_place() -> None:
    node, other = queue(5), queue(5)
    write(node, keys(3))
    other.load_state_dict(node.state_dict())
    assert set(node.state_dict()) == {"rows", "place"}
    for each in (node, other):
        write(each, keys(4, seed=1))
    assert torch.equal(node().items, other().items)
    assert node.place.item() == other.place.item() == 2


def test_an_empty_queue_has_no_weight_until_it_is_full() -> None:
    node = queue(10, views=2, start="empty")
    expected, place = torch.zeros(2, 10, 3), 0
    for number, (count, full) in enumerate([(4, 0), (4, 0), (2, 1), (3, 1)]):
        x = keys(count, views=2, seed=number)
        write(node, x)
        place = one_by_one(expected, place, x)
        torch.testing.assert_close(node().items, expected)
        assert torch.equal(node().weight, torch.full((2, 10), float(full)))
    other = queue(10, views=2, start="empty")
    other.load_state_dict(node.state_dict())
    assert torch.equal(other().weight, node().weight)
    assert torch.equal(queue(10)().weight, torch.ones(1, 10))


def test_it_begins_to_store_when_it_is_told_to() -> None:
    """Two epochs of three steps go by; then two batches of 5 fill 10 rows."""
    settings = {"size": 10, "start": "empty", "from": "2 epochs"}
    nodes = {**NODES, "queue": {"use": "queue", "in": "key", **settings}}
    outputs = {"embedding": "head", "memory": "queue", "weight": "queue.weight"}
    method = compiled(nodes, outputs=outputs)
    method.clock.set(total_steps=12, steps_per_epoch=3)
    node: Any = method.nodes["queue"]
    full = []
    for step in range(9):
        before = int(node.stored)
        full.append(bool(method.run({}, ["queue.weight"], batch(step))["queue.weight"].all()))
        method(batch(step)).loss.backward()
        method.after_step()
        assert (int(node.stored) > before) == (6 <= step < 8)
        assert int(node.place) == 5 * max(0, step - 5) % 10
    assert full == [False] * 8 + [True]


def test_a_queue_that_waits_for_an_epoch_asks_how_long_one_is() -> None:
    nodes = {**NODES, "queue": {**NODES["queue"], "from": "2 epochs"}}
    method = compiled(nodes)
    with pytest.raises(sslgraph.GraphError, match=r"queue\.from follows the run") as caught:
        method(batch())
    assert caught.value.problems[0].span.text == "nodes.queue.from: '2 epochs'"


@pytest.mark.parametrize("order", list(permutations(["key", "queue", "loss"])))
def test_storing_before_the_read_can_not_be_written_down(order: tuple[str, ...]) -> None:
    first = [name for name in NODES if name not in order]
    method = compiled({name: NODES[name] for name in [*first, *order]})
    lines = [line.strip() for line in method.code.splitlines()]
    stored = next(i for i, line in enumerate(lines) if line.startswith('n["queue"].write('))
    read = [i for i, line in enumerate(lines) if 'n["queue"](' in line or 'n["loss"](' in line]
    assert len(read) == 2
    assert max(read) < stored
    node: Any = method.nodes["queue"]
    before = node.rows.clone()
    step = method(batch())
    query = method.run({}, ["head"], batch())["head"]
    torch.testing.assert_close(step.loss, (query @ before[0].T).mean())


def test_a_graph_stores_the_keys_of_each_batch_once() -> None:
    method = moco()
    node: Any = method.nodes["queue"]
    method.clock.set(accumulate=2)
    for number in range(2):  # two forward passes of one optimizer step
        place, before = int(node.place), node.rows.clone()
        made = method.run({}, ["key"], batch(number))["key"]
        assert torch.equal(node.rows, before)  # a part of the graph stores nothing
        method(batch(number)).loss.backward()
        expected = before.clone()
        expected[:, place : place + 5] = unit(made)
        torch.testing.assert_close(node.rows, expected)
    place = int(node.place)
    method.after_step()
    assert int(node.place) == place == 10


def test_no_gradient_reaches_what_is_stored() -> None:
    method = moco()
    method(batch()).loss.backward()
    assert all(p.grad is None for p in method.nodes["key"].parameters())
    assert all(p.grad is not None for p in method.nodes["head"].parameters())
    assert not method.nodes["queue"].rows.requires_grad


def test_the_loss_does_not_know_the_keys_that_its_step_stores() -> None:
    method, other = moco(), moco()
    with torch.no_grad():
        for parameter in other.nodes["key"].parameters():
            parameter.add_(1)
    assert torch.equal(method(batch()).loss, other(batch()).loss)
    assert not torch.equal(method(batch()).loss, other(batch()).loss)


def test_evaluation_reads_and_stores_nothing() -> None:
    method = moco()
    state = copy.deepcopy(method.state_dict())
    found = method.outputs(batch())
    assert found["memory"].shape == (1, 12, 4)
    method.eval()
    method(batch())
    for name, value in method.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_step_that_is_not_finite_stores_nothing() -> None:
    method = moco()
    method.clock.set(total_steps=4, steps_per_epoch=4, accumulate=2)
    spec = method.graph.train.model_copy(update={"lr": LearningRate(peak=0.1)})
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, Horizon(4, 4))
    updater = Updater(method, build_optimizer(spec, groups), groups, spec, Horizon(4, 4), seed=0)
    node: Any = method.nodes["queue"]
    assert updater.finish(updater.begin([batch()], 0)) == ""
    rows, place = node.rows.clone(), node.place.clone()
    assert place.item() == 5
    bad = images(seed=1)
    bad[2] = torch.nan
    assert updater.finish(updater.begin([batch(2), {**batch(1), "image": bad}], 1))
    assert torch.equal(node.rows, rows)
    assert torch.equal(node.place, place)
    assert updater.finish(updater.begin([batch(2)], 1)) == ""
    assert node.place.item() == 10


def test_its_rows_are_of_no_crop_of_the_batch() -> None:
    plan = sslgraph.compile(graph(NODES)).plan
    assert plan.identities["queue", "items"] == ("queue.0",)
    assert plan.identities[plan.wire("key").source] == ("views.1",)


def test_each_view_has_rows_of_its_own() -> None:
    two = {**NODES, "queue": {**NODES["queue"], "in": ["head", "key"]}}
    both = {**two, "loss": {"use": "toy_pull", "in": {"a": "head"}}}
    method = compiled(both, outputs={"memory": "queue"})
    made = method.run({}, ["head", "key"], batch())
    method(batch())
    node: Any = method.nodes["queue"]
    assert node.rows.shape == (2, 12, 4)
    stored = torch.cat([made["head"], made["key"]])
    torch.testing.assert_close(node.rows[:, :5], unit(stored.detach()))


def test_a_queue_of_what_it_gives_has_no_size() -> None:
    mixed = {"use": "toy_scale", "in": {"x": "pixels", "shift": "queue"}}
    nodes = {**NODES, "head": mixed, "queue": {**NODES["queue"], "in": "head"}}
    (problem,) = sslgraph.check(graph({k: v for k, v in nodes.items() if k != "key"}))
    assert (problem.code, problem.notes) == ("E403", ("ValueError: queue needs the size of V, D",))


def test_a_memory_of_known_size_may_store_what_it_gave() -> None:
    nodes = {
        "pixels": NODES["pixels"],
        "far": {"use": "toy_far", "in": {"a": "pixels", "items": "memory"}},
        "memory": {"use": "toy_memory", "in": "again.0", "size": 1},
        "again": {
            "use": "toy_scale",
            "in": {"x": "pixels", "shift": "memory"},
            "train": False,
        },
        "views": NODES["views"],
    }
    method = compiled(nodes, {"far": 1.0}, outputs={"memory": "memory"})
    made = method.run({}, ["again"], batch())["again"]
    method(batch())
    assert torch.equal(method.outputs(batch())["memory"], made[:, -1:].detach())
    wrong = {**nodes, "memory": {**nodes["memory"], "in": "again.1"}}
    (problem,) = sslgraph.check(graph(wrong, {"far": 1.0}))
    assert problem.code == "E209"


def store_on_rank(rank: int) -> list[Tensor]:
    node = queue(10)
    for step in range(3):
        write(node, keys(2, seed=10 * step + rank))
    return [node.rows, node.place]


def test_two_processes_have_one_queue_of_all_keys_by_rank(on_ranks: OnRanks) -> None:
    first, second = on_ranks(store_on_rank)
    alone = queue(10)
    for step in range(3):
        write(alone, torch.cat([keys(2, seed=10 * step + rank) for rank in range(2)], dim=1))
    for rows, place in (first, second):
        assert torch.equal(rows, alone.rows)
        assert place.item() == alone.place.item() == 2
