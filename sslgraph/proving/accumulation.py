"""Two forward passes of half a batch against one of the whole, where no node looks at the batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sslgraph.checks.collapse import SPREADS
from sslgraph.nodes.base import Node
from sslgraph.nodes.batch_norm import BatchNorm
from sslgraph.plan import Step
from sslgraph.proving.case import TOLERANCE, Case, Gradients, apart, furthest, gradients, told
from sslgraph.proving.given import watched
from sslgraph.proving.result import BrokenError, InapplicableError, listed


def accumulation(case: Case) -> str:
    """The mean over both halves of a batch is the loss and the gradient of the whole."""
    method = case.method()
    reasons = [why for step in case.plan.steps for why in _reasons(step, method.nodes[step.name])]
    reasons += [
        f"{name} takes the mean over the hidden places of a batch" for name in _uneven(case)
    ]
    if reasons:
        raise InapplicableError(listed(dict.fromkeys(reasons), most=2))
    whole = case.forward(method, case.given())
    expected = gradients(method, whole.loss)
    halves = [case.forward(method, half) for half in case.given().halves()]
    for name, term in whole.terms.items():
        mean = torch.stack([half.terms[name] for half in halves]).mean()
        if not apart(term, mean) <= TOLERANCE:
            raise BrokenError(
                f"{name} of a batch is {told(term)}, but the mean over its halves {told(mean)}",
                case.plan.losses[name][0],
            )
    worst, name = furthest(expected, _mean([gradients(method, half.loss) for half in halves]))
    if not worst <= TOLERANCE:
        text = f"the gradient of {name} is off by {worst:.1e} over two halves of a batch"
        raise BrokenError(text, name.partition(".")[0])
    return f"loss and gradients of two halves of {case.batch} images, apart by {worst:.0e} at most"


def _mean(found: list[Gradients]) -> Gradients:
    means: Gradients = {}
    for name in found[0]:
        parts = [part for each in found if (part := each[name]) is not None]
        means[name] = torch.stack(parts).sum(0) / len(found) if parts else None
    return means


def _reasons(step: Step, module: Node) -> Iterator[str]:
    """What of a node's declaration looks at a batch as a whole."""
    declared = step.declaration
    if declared.writes == "batch":
        yield f"{step.name} is written by each forward pass"
    for part in module.modules():
        if isinstance(part, Node):
            reads = part.declaration.reads
            gathers = any(port in reads and how != "no" for port, how in part.gathers.items())
            if gathers or part.prevents in SPREADS or hasattr(part.config, "ranks"):
                yield f"{part.declaration.use} compares the images of a batch"
    if step.trained and any(isinstance(part, BatchNorm) for part in module.modules()):
        yield f"{step.name} normalises over the batch"


def _uneven(case: Case) -> Iterator[str]:
    """The losses in which images with more hidden places count more."""
    losses = [
        step
        for step in case.plan.steps
        if step.declaration.is_loss and getattr(step.config, "average", "") == "batch"
    ]
    method = case.method()
    with watched(method, [step.name for step in losses]) as calls:
        case.forward(method, case.given())
    for step in losses:
        for port, value in zip(step.declaration.reads, calls[step.name].args, strict=True):
            kind = step.declaration.inputs[port].kind.allowed
            if value is not None and kind in (("mask",), ("weight",)):
                hidden = value.double().sum(-1)
                if not torch.allclose(hidden, hidden[:, :1]):
                    yield step.name
