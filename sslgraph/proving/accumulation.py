"""Two forward passes of half a batch against one of the whole, where no node looks at the batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sslgraph.checks.collapse import SPREADS
from sslgraph.nodes.base import Node
from sslgraph.nodes.batch_norm import BatchNorm
from sslgraph.plan import Step
from sslgraph.proving.case import Case
from sslgraph.proving.compare import TOLERANCE, Gradients, apart, furthest, gradients, told
from sslgraph.proving.given import Given, watched
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
    given = with_masks(case, case.given())
    whole = case.forward(method, given)
    expected = gradients(method, whole.loss)
    halves = [case.forward(method, half) for half in given.halves()]
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
    done = f"loss and gradients of two halves of {case.batch} images"
    return f"{done}, apart by {worst:.0e} at most{told_masks(case)}"


def with_masks(case: Case, given: Given, of: Given | None = None) -> Given:
    """A batch with the masks that are drawn for all its images together, for halves to keep.

    Args:
        case: The case.
        given: The batch.
        of: Another batch whose masks it gets.
    """
    names = _batch_masks(case)
    if not names:
        return given
    method = case.method()
    with watched(method, names) as calls:
        case.forward(method, of or given)
    made = {(name, port): v for name in names for port, v in calls[name].kept.items()}
    return given.fed(made)


def told_masks(case: Case) -> str:
    """That masks are those of the whole batch, where it matters."""
    names = _batch_masks(case)
    return f"; masks of the whole batch: {listed(names)}" if names else ""


def _batch_masks(case: Case) -> list[str]:
    """The nodes that draw the masks of a batch together.

    They say `same: batch`, or that masks are even within a batch with another number in the next.
    """
    found = []
    for step in case.plan.steps:
        for port in step.declaration.outputs:
            shape = case.sizes.shapes.get((step.name, port), ())
            if shape and case.plan.kinds.get((step.name, port)) == "mask":
                visible = step.declaration.mask_counts(step.config, shape[-1]).get(port)
                uneven = visible is not None and visible.even and visible.known is None
                if uneven or getattr(step.config, "same", "") == "batch":
                    found.append(step.name)
    return list(dict.fromkeys(found))


def _compares(node: Node) -> bool:
    """Whether a node declares that it looks at images beside each other."""
    reads = node.declaration.reads
    gathers = any(port in reads and how != "no" for port, how in node.gathers.items())
    return gathers or node.prevents in SPREADS or hasattr(node.config, "ranks")


def _mean(found: list[Gradients]) -> Gradients:
    """The mean of several sets of gradients, name by name."""
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
        if isinstance(part, Node) and _compares(part):
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
