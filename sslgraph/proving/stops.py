"""Where gradients go: none past what stops them, one into every weight that is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sslgraph.describe.wording import plural
from sslgraph.method import Method
from sslgraph.plan import Step
from sslgraph.proving.case import STEPS, Case
from sslgraph.proving.compare import Gradients, gradients
from sslgraph.proving.result import BrokenError, InapplicableError, listed

_ROUNDING = 1e-12


def stopped_gradients(case: Case) -> str:
    """Exactly zero behind all that stops a gradient, and into batches that were stored.

    What enters a node that stops gradients, the weights of such a node and of nodes that are not
    trained, and the batch before, which a memory has written down.
    """
    stops = [step for step in case.plan.steps if step.declaration.stops_gradient]
    held = [step for step in case.plan.steps if not step.trained]
    stored = list(case.steps(writes="batch"))
    if not (stops or held or stored):
        raise InapplicableError("no node stops a gradient, keeps a memory or is held untrained")
    inputs = sum(_entering(case, step) for step in stops)
    weights = sum(_own_weights(case, step) for step in [*stops, *held])
    views = _batch_before(case) if stored else 0
    names = listed(dict.fromkeys(step.name for step in [*stops, *held, *stored]))
    counts = {"input": inputs, "weight": weights, "stored view": views}
    return f"0 in {', '.join(plural(n, what) for what, n in counts.items() if n)} ({names})"


def trained_gradients(case: Case) -> str:
    """Every trained parameter gets a gradient that is not zero, at some time of the run."""
    method = case.method()
    missing: dict[str, str] = {}
    noise: set[str] = set()
    count = 0
    for place in (0, STEPS // 2, STEPS - 1):
        set_clock(method, place)
        found = gradients(method, case.forward(method, case.given(place)).loss)
        count = len(found)
        here = {name: _lack(value) for name, value in found.items() if _lack(value)}
        missing = here if place == 0 else {n: why for n, why in here.items() if n in missing}
        noise = set(_rounding(found))
        if not missing:
            break
    if not count:
        raise InapplicableError("nothing is trained")
    if missing:
        names = listed(f"{name} ({why})" for name, why in missing.items())
        node = next(iter(missing)).partition(".")[0]
        raise BrokenError(f"no gradient in {len(missing)} of {count} parameters: {names}", node)
    told = f"; only rounding, as before a batch norm: {listed(sorted(noise))}" if noise else ""
    return f"all {count} parameters{told}"


def set_clock(method: Method, step: int) -> None:
    """Go to a step of the run."""
    method.clock.now = step
    method.clock.step.fill_(step)


def _rounding(found: Gradients) -> list[str]:
    """The parameters whose gradient is too small for anything but rounding."""
    norms = {name: float(value.norm()) for name, value in found.items() if value is not None}
    largest = max(norms.values(), default=0.0)
    return [name for name, norm in norms.items() if norm < _ROUNDING * largest]


def _lack(gradient: Tensor | None) -> str:
    if gradient is None:
        return "none"
    return "" if gradient.any() else "zero"


def _entering(case: Case, step: Step) -> int:
    """How many inputs of a node that stops gradients were seen to get none."""
    method = case.method()
    with _leaves(method, step.name) as leaves:
        loss = case.forward(method, case.given()).loss
    if not leaves or not loss.requires_grad:
        return 0
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is not None and gradient.any():
            raise BrokenError(
                f"{step.name} ({step.declaration.use}) declares that it stops gradients, but one "
                f"of norm {float(gradient.norm()):.2g} reaches its input {name}",
                step.name,
            )
    return len(leaves)


@contextmanager
def _leaves(method: Method, name: str) -> Iterator[dict[str, Tensor]]:
    """Within it the inputs of a node are leaves, so that what reaches them can be told."""
    leaves: dict[str, Tensor] = {}

    def cut(module: Any, args: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        for port, value in zip(module.declaration.reads, args, strict=True):
            if value is not None and value.is_floating_point():
                leaves[port] = value.detach().clone().requires_grad_()
        given = zip(module.declaration.reads, args, strict=True)
        return tuple(leaves.get(port, value) for port, value in given)

    handle = method.nodes[name].register_forward_pre_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _own_weights(case: Case, step: Step) -> int:
    """How many weights of a node that is not trained were seen to get no gradient."""
    method = case.method()
    module = method.nodes[step.name]
    own = dict(module.named_parameters())
    # a stop holds, whatever its weights ask for; other calls of its modules are not its own
    with _asking(module if step.declaration.stops_gradient else None):
        loss = case.forward(method, case.given()).loss
    asked = {name: weight for name, weight in own.items() if weight.requires_grad}
    if not asked or not loss.requires_grad:
        return len(own)
    found = torch.autograd.grad(loss, list(asked.values()), allow_unused=True)
    for name, gradient in zip(asked, found, strict=True):
        if gradient is not None and gradient.any():
            raise BrokenError(
                f"a gradient of norm {float(gradient.norm()):.2g} reaches {step.name}.{name}, "
                f"which is not trained",
                step.name,
            )
    return len(own)


@contextmanager
def _asking(module: nn.Module | None) -> Iterator[None]:
    """Within it the weights of a module ask for gradients while it is called, and afterwards."""
    if module is None:
        yield
        return
    enter = module.register_forward_pre_hook(lambda *_: module.requires_grad_() and None)
    leave = module.register_forward_hook(
        lambda *_: module.requires_grad_(requires_grad=False) and None
    )
    try:
        yield
        module.requires_grad_()
    finally:
        enter.remove()
        leave.remove()


def _batch_before(case: Case) -> int:
    """How many views of an earlier batch get no gradient from this one's loss."""
    method = case.method()
    before = case.given(0)
    watched = {port: value.clone().requires_grad_() for port, value in before.views.items()}
    case.forward(method, before.fed(watched))
    loss = case.forward(method, case.given(1)).loss
    found: list[Tensor | None] = [None] * len(watched)
    if watched and loss.requires_grad:
        found = list(torch.autograd.grad(loss, list(watched.values()), allow_unused=True))
    for (node, port), gradient in zip(watched, found, strict=True):
        if gradient is not None and gradient.any():
            keeper = next(case.steps(writes="batch")).name
            raise BrokenError(
                f"the loss of a batch sends a gradient of norm {float(gradient.norm()):.2g} into "
                f"{node}.{port} of the batch before: what {keeper} stores still hangs on it",
                keeper,
            )
    return sum(len(value) for value in watched.values())
