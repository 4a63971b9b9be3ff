"""Gradients, states and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslgraph.method import Method

TOLERANCE = 1e-5
"""Relative: what may lie between two ways to one number; float64 needs less, float32 parts more."""

NOISE = 1e-6
"""Gradients this far below the largest one are rounding."""

Gradients = dict[str, Tensor | None]


def gradients(method: Method, loss: Tensor) -> Gradients:
    """The gradient of every trained parameter by its full name; None where none comes."""
    named = {
        f"{node}.{name}": parameter
        for node, parameters in method.parameters_by_node().items()
        for name, parameter in parameters.items()
    }
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


@torch.no_grad()
def descend(method: Method, found: Mapping[str, Tensor | None], rate: float) -> None:
    """One step of gradient descent."""
    known = dict(method.nodes.named_parameters())
    for name, gradient in found.items():
        if gradient is not None:
            known[name].sub_(gradient, alpha=rate)


def apart(a: Tensor, b: Tensor, scale: float = 0.0) -> float:
    """The largest difference of two tensors relative to their largest value.

    Args:
        a: One.
        b: The other, of the same shape; another shape is infinitely far.
        scale: What the difference is relative to where both are smaller.
    """
    if a.shape != b.shape:
        return math.inf
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    largest = max(float(a.abs().max()), float(b.abs().max()), scale)
    difference = float((a - b).abs().max())
    return difference / largest if difference else 0.0


def furthest(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None]) -> tuple[float, str]:
    """The largest relative difference of two sets of gradients, and whose it is."""
    every = [g for g in (*a.values(), *b.values()) if g is not None and g.numel()]
    scale = max((float(g.abs().max()) for g in every), default=0.0) * NOISE
    worst = (0.0, "")
    for name in {**a, **b}:
        one, other = a.get(name), b.get(name)
        if one is None and other is None:
            continue
        one = torch.zeros_like(other) if one is None and other is not None else one
        other = torch.zeros_like(one) if other is None and one is not None else other
        assert one is not None
        assert other is not None
        worst = max(worst, (apart(one, other, scale), name))
    return worst


def told(value: Tensor) -> str:
    """A loss, to the digits that a reader needs."""
    return f"{float(value.detach()):.6g}"


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, also of those outside the state dict."""
    both = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().clone() for name, value in both}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """The names whose values are not equal to the last bit."""
    return [name for name, value in before.items() if not torch.equal(value, after[name])]
