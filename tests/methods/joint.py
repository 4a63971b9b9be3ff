"""What the tests of joint-embedding methods have in common: full optimizer steps side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.method import Method
from sslgraph.train.groups import parameter_groups
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train.step import Updater

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


def updater_of(method: Method, seed: int, run: Horizon = RUN) -> Updater:
    """What does the steps of a run."""
    spec, nodes = method.graph.train, method.graph.nodes
    own = {name: node.train for name, node in nodes.items()}
    groups = parameter_groups(method, method.parameters_by_node(), spec, own, run)
    return Updater(method, build_optimizer(spec, groups), groups, spec, run, seed)


def require_equal_steps(
    method: Method,
    hand: ByHand,
    pairs: Sequence[tuple[nn.Module, nn.Module]],
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


def _each(pairs: Sequence[tuple[nn.Module, nn.Module]], what: str) -> Iterator[tuple[Any, Any]]:
    for ours, theirs in pairs:
        yield from zip(getattr(ours, what)(), getattr(theirs, what)(), strict=True)


def _require_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-9)
