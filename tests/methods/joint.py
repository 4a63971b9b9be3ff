"""What the tests of joint-embedding methods have in common: full optimizer steps side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.check_sizes import Sizes
from sslgraph.checking import report
from sslgraph.method import Method
from sslgraph.spec import Graph
from sslgraph.train.groups import parameter_groups
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon, learning_rate
from sslgraph.train.step import Updater
from tests.methods.simclr_by_hand import ROUNDING

Pairs = Sequence[tuple[nn.Module, nn.Module]]

BATCH = 8
RUN = Horizon(total_steps=8, steps_per_epoch=2)


class ByHand(Protocol):
    """A method by hand: its loss, and what it does once gradients are there."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views of a batch."""

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""

    def update(self, step: int) -> None:
        """One optimizer step and what follows it."""


def pictures(count: int, side: int) -> Tensor:
    """Smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, side)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(count * 3).view(count, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


def in_float64(name: str, changes: dict[str, Any], seed: int, **how: Any) -> Method:
    """A shipped method in float64, its clock set.

    Views are made in float32 and then cast; numbers that follow no schedule, such as a temperature
    of 0.2, get the digits that float32 has cut off.
    """
    method = sslgraph.compile(sslgraph.load(name, set=changes, **how), seed=seed).double()
    method.nodes["views"].register_forward_hook(lambda node, given, made: made.double())
    for _, node in method.nodes.items():
        for key, value in node.config:
            if isinstance(value, float) and isinstance(getattr(node, key, None), Tensor):
                setattr(node, key, torch.tensor(value, dtype=torch.float64))
    method.clock.set(total_steps=RUN.total_steps, steps_per_epoch=RUN.steps_per_epoch)
    return method


def network(method: Method, name: str) -> Any:
    """The torch module with which a node computes; `key.encoder` is a member of a copy."""
    owner, _, member = name.partition(".")
    node: Any = method.nodes[owner]
    if member:
        node = node.members[member]
    return node.model if hasattr(node, "model") else node.layers


def width_of(method: Method, head: str = "projector") -> int:
    """The width of the embedding, which a head takes in."""
    width: int = network(method, head)[0].in_features
    return width


def beside(method: Method, parts: Mapping[str, nn.Module]) -> Pairs:
    """Each node's module and the one by hand."""
    return [(network(method, name), theirs) for name, theirs in parts.items()]


def named_pairs(
    method: Method, parts: Mapping[str, nn.Module]
) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """Each parameter of the nodes and the one of its name by hand; neither side has others."""
    found = []
    for node, theirs in parts.items():
        names = dict(theirs.named_parameters())
        for name, parameter in network(method, node).named_parameters():
            found.append((f"{node}.{name}", parameter, names.pop(name)))
        assert not names
    return found


def share_weights(method: Method, parts: Mapping[str, nn.Module]) -> None:
    """Give modules by hand the weights of the nodes of their names."""
    for ours, theirs in beside(method, parts):
        theirs.load_state_dict(ours.state_dict())


def views_of(method: Method, images: Tensor) -> Tensor:
    """The views of images at the first positions of a run, V B C H W."""
    batch = {"image": images, "index": torch.arange(len(images))}
    made: Tensor = method.run({}, ["views"], batch)["views"]
    return made


def require_views(method: Method, images: Tensor, expected: Tensor) -> None:
    """See that views are those by hand, V B C H W or all views of the batch in one row."""
    made = views_of(method, images)
    torch.testing.assert_close(made, expected.to(made.dtype).view_as(made), rtol=0, atol=ROUNDING)


def sizes_of(name: str, **how: Any) -> Sizes:
    """The sizes of a shipped method's graph, whose weights are not made."""
    sizes = report(sslgraph.load(name, **how)).sizes
    assert sizes is not None
    return sizes


def require_rates(graph: Graph, run: Horizon, expected: Mapping[int, float]) -> None:
    """See that the recipe has these learning rates at these steps of a run."""
    spec = graph.train
    for step, rate in expected.items():
        found = learning_rate(spec.lr, spec.batch_size, step, run)
        assert found == pytest.approx(rate, rel=1e-9), step


def require_bare_vectors(updater: Updater) -> None:
    """See that matrices and kernels are decayed and adapted, and what has one axis is neither."""
    kinds = {
        (p.ndim > 1, group.rule.adapt, group.rule.weight_decay != 0)
        for group in updater.groups
        for p in group.parameters
    }
    assert kinds == {(True, True, True), (False, False, False)}


def require_lars_of_4096_images(name: str, form: str, peak: float, decay: float) -> None:
    """See that a recipe is 1000 epochs of ImageNet with batches of 4096 and LARS.

    Ten epochs of warm-up; half a cosine over the rest of the run, from the peak down to 0.
    """
    graph = sslgraph.load(name, set={"vars.arch": "test_resnet"})
    run = Horizon.of(graph.train, 1281167)
    assert run == Horizon(1000 * 312, 312)
    expected = {0: 0, 5: peak / 2, 10: peak, 505: peak / 2, 1000: 0}
    require_rates(graph, run, {epoch * 312: rate for epoch, rate in expected.items()})
    spec = graph.train
    assert (spec.optimizer, spec.form, spec.weight_decay) == ("lars", form, decay)
    assert (spec.momentum, spec.trust_coefficient) == (0.9, 1e-3)
    require_bare_vectors(updater_of(sslgraph.compile(graph), 0))


def updater_of(method: Method, seed: int, run: Horizon = RUN) -> Updater:
    """What does the steps of a run."""
    spec, nodes = method.graph.train, method.graph.nodes
    own = {name: node.train for name, node in nodes.items()}
    groups = parameter_groups(method, method.parameters_by_node(), spec, own, run)
    return Updater(method, build_optimizer(spec, groups), groups, spec, run, seed)


def require_equal_steps(
    method: Method,
    hand: ByHand,
    pairs: Pairs,
    images: Tensor,
    seed: int,
    steps: int = 3,
) -> None:
    """Do whole steps of a run with its own optimizer, and the same by hand.

    Loss and gradients have to be equal before each update; parameters and buffers after it.

    Args:
        method: The method, in float64.
        hand: The same by hand, with equal weights.
        pairs: Modules that hold the same weights in the same order.
        images: The batch.
        seed: The method's seed.
        steps: How many.
    """
    updater = updater_of(method, seed)
    trained = sum(p.numel() for g in updater.groups for p in g.parameters)
    moved = 0
    for step in range(steps):
        batch = {"image": images, "index": torch.arange(len(images)) + step * len(images)}
        views = method.run({"batch.image": images}, ["views"], batch)["views"]
        hand.zero_grad()
        loss = hand(*views)
        torch.autograd.backward(loss)
        done = updater.begin([batch], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-7, atol=1e-12)
        moved = 0
        for ours, theirs in _each(pairs, "parameters"):
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None:
                _require_equal(ours.grad, theirs.grad)
                moved += ours.numel()
        hand.update(step)
        assert updater.finish(done) == ""
        for what in ("parameters", "buffers"):
            for ours, theirs in _each(pairs, what):
                _require_equal(ours, theirs)
    assert moved == trained  # whatever trains was compared


def _each(pairs: Pairs, what: str) -> Iterator[tuple[Any, Any]]:
    for ours, theirs in pairs:
        yield from zip(getattr(ours, what)(), getattr(theirs, what)(), strict=True)


def _require_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-9)
