"""The order of the images of a batch means nothing."""

from __future__ import annotations

import torch

from sslgraph.proving.case import Case, share_all
from sslgraph.proving.compare import TOLERANCE, apart, furthest, gradients, told
from sslgraph.proving.result import BrokenError


def image_order(case: Case) -> str:
    """Permuting the images leaves loss and gradients, when their positions go along.

    Where batch norm looks at groups of images, which depend on where they stand, it takes the whole
    batch for this.
    """
    order = torch.randperm(case.batch, generator=torch.Generator().manual_seed(3))
    found = []
    whole = False
    for given in (case.given(), case.given().rows(order)):
        method = case.method()
        whole = share_all(method)
        output = case.forward(method, given)
        found.append((output, gradients(method, output.loss)))
    (one, before), (other, after) = found
    for name, term in one.terms.items():
        difference = apart(term, other.terms[name])
        if not difference <= TOLERANCE:
            raise BrokenError(
                f"permuting the images changes {name} from {told(term)} to "
                f"{told(other.terms[name])}",
                case.plan.losses[name][0],
            )
    worst, name = furthest(before, after)
    if not worst <= TOLERANCE:
        node = name.partition(".")[0]
        raise BrokenError(
            f"permuting the images changes the gradient of {name} by {worst:.1e}", node
        )
    note = "; batch norm over the whole batch for this" if whole else ""
    return f"loss and gradients of {case.batch} images, apart by {worst:.0e} at most{note}"
