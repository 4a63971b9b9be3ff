"""Half precision and compilation."""

from __future__ import annotations

import warnings

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from sslgraph.describe.wording import plural
from sslgraph.method import Method
from sslgraph.proving.accumulation import told_masks, with_masks
from sslgraph.proving.case import Case
from sslgraph.proving.compare import TOLERANCE, apart, descend, furthest, gradients, told
from sslgraph.proving.given import Given
from sslgraph.proving.result import BrokenError

_STEPS = 2


def autocast(case: Case) -> str:
    """Under bfloat16 autocast the loss and every gradient are finite."""
    method = case.method().float()
    exact = case.forward(case.method(), case.given())
    with torch.autocast("cpu", torch.bfloat16):
        output = case.forward(method, case.given().to(torch.float32))
    for name, term in output.terms.items():
        if not term.isfinite():
            raise BrokenError(f"{name} is {told(term)} in bfloat16", case.plan.losses[name][0])
    for name, gradient in gradients(method, output.loss).items():
        if gradient is not None and not gradient.isfinite().all():
            node = name.partition(".")[0]
            raise BrokenError(f"the gradient of {name} is not finite in bfloat16", node)
    return f"loss {told(output.loss)} in bfloat16, {told(exact.loss)} in float64, gradients finite"


def compiled(case: Case) -> str:
    """`torch.compile` gives the same loss and gradients, and compiles once for all steps.

    Masks whose number of places differs from batch to batch change shapes; those of the first batch
    serve all steps.
    """
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain, fast = case.method(), case.method()
    fast.compile(backend=counter)
    worst, frames = 0.0, []
    try:
        with warnings.catch_warnings():
            # what one region hands to the next is looked at by torch as if it were a weight
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            for number in range(_STEPS):
                given = with_masks(case, case.given(number), of=case.given(0))
                worst = max(worst, _compared(case, given, plain, fast))
                frames.append(counter.frame_count)
    finally:
        torch._dynamo.reset()
    if frames[-1] != frames[-2]:
        raise BrokenError(
            f"step {_STEPS} was compiled anew ({plural(frames[-1] - frames[-2], 'region')}): a "
            "number that changes reaches the code as a constant"
        )
    regions = plural(frames[-1], "region")
    return f"{_STEPS} steps, {regions}, apart by {worst:.0e} at most{told_masks(case)}"


def _compared(case: Case, given: Given, plain: Method, fast: Method) -> float:
    """Do a step on both; how far apart the gradients are."""
    one, other = (case.forward(method, given) for method in (plain, fast))
    for name, term in one.terms.items():
        if not apart(term, other.terms[name]) <= TOLERANCE:
            raise BrokenError(
                f"{name} is {told(other.terms[name])} compiled and {told(term)} else",
                case.plan.losses[name][0],
            )
    ours, theirs = gradients(plain, one.loss), gradients(fast, other.loss)
    worst, name = furthest(ours, theirs)
    if not worst <= TOLERANCE:
        text = f"the gradient of {name} is off by {worst:.1e} when compiled"
        raise BrokenError(text, name.partition(".")[0])
    for method in (plain, fast):
        descend(method, ours, 0.01)
        method.after_step()
    return worst
