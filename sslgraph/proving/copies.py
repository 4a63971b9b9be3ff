"""Slow copies: their weights against the closed form of their schedule.

After n steps a copy that began at t_0 and followed originals o_1 ... o_n, as they were after each
step, with momenta m_1 ... m_n is

    t_n = (m_1 ... m_n) t_0 + sum over k of (1 - m_k) (m_(k+1) ... m_n) o_k
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sslgraph.make import original
from sslgraph.method import Method
from sslgraph.plan import Step
from sslgraph.proving.case import STEPS, Case
from sslgraph.proving.compare import TOLERANCE, apart
from sslgraph.proving.given import EPOCH
from sslgraph.proving.result import BrokenError, InapplicableError, listed
from sslgraph.proving.stops import set_clock
from sslgraph.schedules import Schedule

_MOMENTS = (0, 1, STEPS // 2, STEPS // 2 + 1, STEPS - 1)


@dataclass
class _Followed:
    """One weight of a copy.

    Args:
        name: Its full name.
        own: The weight.
        other: The original.
        start: What it was before the first step.
        steps: Momentum and original of each step.
    """

    name: str
    own: Tensor
    other: Tensor
    start: Tensor
    steps: list[tuple[float, Tensor]] = field(default_factory=list)

    def closed_form(self) -> Tensor:
        """What it is after all steps."""
        momenta = [momentum for momentum, _ in self.steps]
        total = math.prod(momenta) * self.start
        for k, (momentum, weights) in enumerate(self.steps):
            total = total + (1 - momentum) * math.prod(momenta[k + 1 :]) * weights
        return total


def copies(case: Case) -> str:
    """A slow copy begins equal to its originals and follows the closed form of its schedule.

    The originals move by leaps, as no optimizer would, so that a copy that is late is far off; the
    run is looked at when it begins, in the middle and before its end. A copy of a copy follows the
    copy.
    """
    slow = [step for step in case.steps(writes="step") if step.declaration.repeats]
    if not slow:
        raise InapplicableError("no node is a slow copy of others")
    free = [step.name for step in slow if not hasattr(step.config, "momentum")]
    if free:
        raise InapplicableError(f"{listed(free)} has no momentum, so its rule is its own")
    for step in slow:
        _begins_equal(case, step)
    method = case.method()
    weights = {step.name: list(_followed(method, step)) for step in slow}
    for number, moment in enumerate(_MOMENTS):
        set_clock(method, moment)
        with torch.no_grad():
            case.forward(method, case.given(number))
        _leap(method, number)
        method.after_step()
        for step in slow:  # in the order in which they write
            for weight in weights[step.name]:
                weight.steps.append((_momentum(step, moment), weight.other.detach().clone()))
    worst = max((_off(case, w, step) for step in slow for w in weights[step.name]), default=0.0)
    count = sum(map(len, weights.values()))
    named = listed(f"{s.name}: momentum {_range(s)}" for s in slow)
    return f"{count} weights after {len(_MOMENTS)} steps, off by {worst:.0e} at most ({named})"


def _off(case: Case, weight: _Followed, step: Step) -> float:
    expected = weight.closed_form()
    found = apart(weight.own, expected, scale=1.0)  # originals leap by about 1
    if not found <= TOLERANCE:
        raise BrokenError(
            f"{weight.name} is {found:.1e} off the closed form of momentum {_range(step)} after "
            f"{len(_MOMENTS)} steps",
            step.name,
        )
    return found


def _begins_equal(case: Case, step: Step) -> None:
    """See that a copy begins as its original, unless a file says how it begins."""
    known = {s.name: s.spec.weights for s in case.plan.steps}
    if any(known.get(name) for name in (step.name, *(m.node for m in step.members))):
        return
    for weight in _followed(case.fresh(), step):
        if not torch.equal(weight.own, weight.other):
            raise BrokenError(f"{weight.name} does not begin equal to its original", step.name)


def _followed(method: Method, step: Step) -> Iterator[_Followed]:
    """The weights of a copy with those that they follow."""
    modules = dict(method.nodes.items())
    for member in step.members:
        inside = replace(member, path=f"{step.name}.{member.name}")
        own = original(modules, inside)
        others = dict(original(modules, member).named_parameters())
        for name, weight in own.named_parameters():
            called = f"{step.name}.{member.name}.{name}"
            yield _Followed(called, weight, others[name], weight.detach().clone())


def _leap(method: Method, number: int) -> None:
    """Give every trained weight new values."""
    generator = torch.Generator().manual_seed(100 + number)
    with torch.no_grad():
        for parameter in method.nodes.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(noise)


def _momentum(step: Step, moment: int) -> float:
    momentum = step.config.momentum
    if isinstance(momentum, Schedule):
        return momentum.value(moment, STEPS, EPOCH)
    return float(momentum)


def _range(step: Step) -> str:
    values = list(dict.fromkeys(f"{_momentum(step, moment):.4g}" for moment in _MOMENTS))
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
