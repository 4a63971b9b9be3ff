"""Recomputation: what is computed again is bit-equal, what is counted is counted once."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import Node, SettingError, make_node
from sslgraph.nodes.recompute import Recomputed, recompute
from sslgraph.nodes.repeats import Again, computes_again
from tests.conftest import RANKS, OnRanks
from tests.toys import Memory, Pixels

SIZE = 32
SMALL: dict[str, Any] = {"args": {"growth_rate": 8, "block_config": [2, 2], "drop_rate": 0.3}}
"""Few dense blocks, which know dropout but no stochastic depth."""
Found = dict[str, Tensor]


def method(arch: str, again: bool, **rule: Any) -> Method:
    """Two views, an encoder with random depth or dropout, a head, a contrastive loss."""
    train = {"recompute": again}
    nodes = {
        "views": {
            "use": "augment",
            "in": "batch.image",
            "views": 2,
            "size": SIZE,
            "ops": [{"crop": [0.5, 1]}, {"flip": 0.5}],
        },
        "encoder": {
            "use": "encoder",
            "in": "views",
            "arch": arch,
            **(SMALL if arch == "densenet121" else {"drop_path": 0.3}),
            "batch_norm": rule,
            "train": train,
        },
        "projector": {
            "use": "projector",
            "in": "encoder.embedding",
            "hidden": [16],
            "out": 8,
            "batch_norm": rule,
            "train": train,
        },
        "loss": {"use": "nt_xent", "in": "projector"},
    }
    graph = sslgraph.load(
        {"sslgraph": 1, "nodes": nodes, "minimize": {"loss": 1.0}, "train": {"batch_size": 8}}
    )
    made = sslgraph.compile(graph)
    made.clock.set(total_steps=4, steps_per_epoch=4)
    return made


def images(seed: int) -> Tensor:
    return torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def steps(made: Method) -> Found:
    """Two optimizer steps, the first one over two forwards before either backward."""
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    torch.manual_seed(0)
    made.clock.set(accumulate=2)
    losses = [made({"image": images(seed)}).loss for seed in (0, 1)]
    torch.stack(losses).sum().backward()
    found = {
        f"grad of {k}": p.grad.clone() for k, p in made.named_parameters() if p.grad is not None
    }
    optimizer.step()
    made.after_step()
    loss = made({"image": images(2)}).loss
    loss.backward()
    return {**found, "loss": loss.detach(), "sum": losses[1].detach(), **made.state_dict()}


@pytest.mark.parametrize(
    ("arch", "rule"),
    [
        ("resnet10t", {"per": "none"}),
        ("resnet10t", {"per": "view", "ranks": "shuffled", "groups": 2}),
        ("densenet121", {"per": "none", "ranks": "own", "groups": 2}),
        ("test_vit", {"per": "view"}),
    ],
)
def test_loss_gradients_and_buffers_are_bit_equal(arch: str, rule: dict[str, Any]) -> None:
    plain, again = steps(method(arch, False, **rule)), steps(method(arch, True, **rule))
    assert plain.keys() == again.keys()
    assert sum(name.startswith("grad of") for name in plain) > 10
    for name, value in plain.items():
        assert torch.equal(again[name], value), name


def kept_bytes(node: Node, x: Tensor) -> int:
    """Memory of what a forward keeps for its backward, parameters aside."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in node.parameters()}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result: Any = node(x)
        assert result.embedding.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(
    ("arch", "most"),
    [("resnet18", 0.7), ("test_vit", 0.3), ("densenet121", 0.3), ("vgg11_bn", 0.1)],
)
def test_activations_are_not_kept(arch: str, most: float) -> None:
    node = make_node("encoder", axes={"C": 3, "H": SIZE, "W": SIZE}, arch=arch)
    x = torch.rand(1, 4, 3, SIZE, SIZE)
    before = kept_bytes(node, x)
    recompute(node)
    assert kept_bytes(node, x) < most * before


def again_on(rank: int, x: Tensor, again: bool) -> Found:
    node = make_node("projector", axes={"D": 5}, hidden=[4], out=3, batch_norm={"ranks": "all"})
    if again:
        recompute(node)
    mine = x[rank].clone().requires_grad_()
    node(mine).square().sum().backward()
    assert mine.grad is not None
    grads = {f"grad of {k}": p.grad for k, p in node.named_parameters() if p.grad is not None}
    return {"x": mine.grad, **grads, **node.state_dict()}


def test_statistics_of_all_processes_are_counted_once(on_ranks: OnRanks) -> None:
    x = torch.rand(RANKS, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    for plain, again in zip(on_ranks(again_on, x, False), on_ranks(again_on, x, True), strict=True):
        for name, value in plain.items():
            assert torch.equal(again[name], value), name


def calls(node: Node) -> list[str]:
    """A list that grows by the thread in which the node's first linear layer computes."""
    seen: list[str] = []
    layer = node.get_submodule("layers.0")
    layer.register_forward_hook(lambda *_: seen.append(threading.current_thread().name))
    return seen


def head() -> Node:
    node = make_node("projector", axes={"D": 5}, hidden=[4, 4], out=3)
    recompute(node)
    return node


def test_evaluation_computes_once() -> None:
    node, x = head(), torch.rand(2, 6, 5)
    seen = calls(node)
    node(x).sum().backward()
    assert len(seen) == 4  # two views, each again
    with torch.no_grad():
        node(x)
    node.eval()(x).sum().backward()
    assert len(seen) == 4 + 2 + 1


def test_a_backward_in_another_thread_marks_only_that_thread() -> None:
    node, x = head(), torch.rand(1, 6, 5)
    seen, loss = calls(node), node(x).sum()
    before = {name: value.clone() for name, value in node.named_buffers()}
    other = threading.Thread(target=loss.backward, name="other")
    other.start()
    other.join()
    assert seen[1:] == ["other"]
    for name, value in node.named_buffers():
        assert torch.equal(value, before[name]), name

    told: list[bool] = []
    with Again():
        assert computes_again()
        third = threading.Thread(target=lambda: told.append(computes_again()))
        third.start()
        third.join()
    assert told == [False]
    assert not computes_again()


def test_a_failure_while_computing_again_leaves_no_mark() -> None:
    node = head()
    seen: list[int] = []

    def fail(*_: object) -> None:
        seen.append(1)
        if len(seen) > 1:
            raise RuntimeError("out of memory")

    node.get_submodule("layers.3").register_forward_hook(fail)
    loss = node(torch.rand(1, 6, 5)).sum()
    with pytest.raises(RuntimeError, match="out of memory"):
        loss.backward()
    assert not computes_again()


def test_copies_compute_again_with_their_own_weights() -> None:
    node, x = head(), torch.rand(1, 6, 5)
    for copied in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        block = copied.get_submodule("layers")
        assert isinstance(block.forward, Recomputed)
        assert block.forward.module is block
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        seen = calls(copied)
        assert copied(x).sum() == 0
        copied(x).sum().backward()
        assert len(seen) == 3
    assert node(x).sum() != 0


# The region behind the encoder takes a tensor that has a history, of whose `.grad` Dynamo asks.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_method_computes_again() -> None:
    rule = {"per": "none"}
    plain, again = method("test_vit", False, **rule), method("test_vit", True, **rule)
    again.compile(backend="aot_eager", fullgraph=True)
    seen: list[int] = []
    block = again.nodes["encoder"].get_submodule("model.blocks.0")
    block.register_forward_hook(lambda *_: seen.append(1))
    expected, found = steps(plain), steps(again)
    assert len(seen) >= 3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("use", "settings", "reason"),
    [
        ("augment", {"size": 8, "ops": []}, "it draws at random, and draws are made once a step"),
        ("nt_xent", {}, "a loss keeps next to nothing for backward"),
        (
            Memory.declaration.use,
            {},
            "it keeps a state, which may have changed when backward computes it again",
        ),
        (Pixels.declaration.use, {}, "it has neither blocks nor chains of layers"),
    ],
)
def test_who_can_not_be_recomputed(use: str, settings: dict[str, Any], reason: str) -> None:
    node = make_node(use, axes={"C": 3, "H": 8, "W": 8, "D": 3}, **settings)
    with pytest.raises(SettingError) as caught:
        recompute(node)
    assert str(caught.value) == f"{use} can't be recomputed: {reason}"
    assert caught.value.path == ("train", "recompute")
    assert caught.value.help == "delete 'recompute' (with 'null' where it is inherited)"
