"""Views: exchanged where the wires treat them alike, and compared as the pair list says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sslgraph.checks.references import Port
from sslgraph.describe.wording import plural
from sslgraph.plan import Step
from sslgraph.ports import Identities
from sslgraph.proving.case import Case, share_all
from sslgraph.proving.compare import TOLERANCE, apart, furthest, gradients, told
from sslgraph.proving.given import Call, Given, entries, watched
from sslgraph.proving.result import BrokenError, InapplicableError

Renaming = Mapping[str, str]
"""The crop that stands where another one stood; those that stay are left out."""


def view_order(case: Case) -> str:
    """Exchanging two views that all wires treat alike leaves loss and gradients.

    Masks and other draws of a view go with it.
    """
    swaps = [swap for port in entries(case.plan) for swap in _swaps(case, port)]
    if not swaps:
        raise InapplicableError("no node draws two views of one size")
    alike = [swap for swap in swaps if _symmetric(case, swap)]
    if not alike:
        told = " and ".join(next(iter(swaps)))
        raise InapplicableError(f"wires tell the views apart: {told} go different ways")
    method = case.method()
    share_all(method)
    drawn = [step.name for step in case.plan.steps if step.declaration.draws]
    with watched(method, drawn) as calls:
        output = case.forward(method, case.given())
    before = gradients(method, output.loss)
    own = {(n, port): value for n in calls for port, value in calls[n].outputs.items()}
    worst = 0.0
    for swap in alike:
        moved = {port: _moved(case, port, value, swap) for port, value in own.items()}
        worst = max(worst, _compared(case, swap, case.given().fed(moved), output.terms, before))
    rest = len(swaps) - len(alike)
    others = f"; {rest} go different ways" if rest else ""
    done = f"{plural(len(alike), 'exchange')} of neighbouring views"
    return f"{done}, apart by {worst:.0e} at most{others}"


def view_pairs(case: Case) -> str:
    """A loss draws together the pairs of its list, and no others.

    Two views interact if changing both changes the loss by another amount than the two changes
    alone; so it is for every pair of the list and for no other one.
    """
    steps = [step for step in case.plan.steps if step.declaration.is_loss and step.pairs]
    if not steps:
        raise InapplicableError("no loss compares pairs of views")
    method = case.method()
    with watched(method, [step.name for step in steps]) as calls:
        case.forward(method, case.given())
    said = []
    for step in steps:
        module, call = method.nodes[step.name], calls[step.name]
        checked = _pairs(step, module, call)
        said.append(f"{step.name} {len(step.pairs)} of {checked}")
    return f"pairs that interact: {', '.join(said)}"


def _compared(
    case: Case,
    swap: Renaming,
    given: Given,
    terms: Mapping[str, Tensor],
    before: Mapping[str, Tensor | None],
) -> float:
    """Run with the views exchanged; how far apart the gradients are."""
    method = case.method()
    share_all(method)
    output = case.forward(method, given)
    names = " and ".join(swap)
    for name, term in terms.items():
        if not apart(term, output.terms[name]) <= TOLERANCE:
            raise BrokenError(
                f"exchanging {names} changes {name} from {told(term)} to "
                f"{told(output.terms[name])}, though no wire tells them apart",
                case.plan.losses[name][0],
            )
    worst, name = furthest(before, gradients(method, output.loss))
    if not worst <= TOLERANCE:
        node = name.partition(".")[0]
        text = f"exchanging {names} changes the gradient of {name} by {worst:.1e}"
        raise BrokenError(text, node)
    return worst


def _swaps(case: Case, port: Port) -> Iterator[Renaming]:
    for one, other in pairwise(case.plan.identities[port]):
        yield {one: other, other: one}


def _symmetric(case: Case, swap: Renaming) -> bool:
    """Whether every node gets both views or neither, and hands on whose values they are."""
    for step in case.plan.steps:
        for views in step.views.values():
            if any(swap.get(view, view) not in views for view in views):
                return False
        read = [step.views[port] for port in step.wires("read")]
        if any(swap.keys() & set(views) for views in read) and not _hands_on(case, step, read):
            return False
    return True


def _hands_on(case: Case, step: Step, read: list[Identities]) -> bool:
    """Whether the outputs have the views of an input, or none."""
    ports = [(step.name, port) for port in step.declaration.outputs]
    made = [case.plan.identities.get(port, ()) for port in ports]
    return all(not views or any(set(views) <= set(given) for given in read) for views in made)


def _moved(case: Case, port: Port, value: Tensor, swap: Renaming) -> Tensor:
    """A value whose views are exchanged, by the names of the crops that they came from."""
    views = case.plan.identities.get(port, ())
    if len(views) != value.shape[0]:
        return value
    return value[[views.index(swap.get(view, view)) for view in views]]


def _pairs(step: Step, module: Any, call: Call) -> int:
    """See that exactly the pairs of the list interact; how many there could be."""
    names = list(step.declaration.reads)
    there = {n: v.detach() for n, v in zip(names, call.args, strict=True) if v is not None}
    first, second = names[0], names[1] if names[1:2] and names[1] in there else names[0]
    # other images' rows, by another step on each side, so that both together are no permutation
    moved = {0: there[first].roll(1, 1), 1: there[second].roll(3, 1)}

    @torch.no_grad()
    def loss(*changes: tuple[int, int]) -> float:
        given = dict(there)
        for side, view in changes:
            port = (first, second)[side]
            given[port] = given[port].clone()
            given[port][view] = moved[side][view]
        return float(module(*[given.get(name) for name in names]))

    base = loss()
    one = [loss((0, i)) - base for i in range(len(there[first]))]
    other = [loss((1, j)) - base for j in range(len(there[second]))]
    scale = max(map(abs, [*one, *other]))
    every = [(i, j) for i in range(len(one)) for j in range(len(other)) if first != second or i < j]
    for i, j in every:
        together = loss((0, i), (1, j)) - base - one[i] - other[j]
        interact = abs(together) > TOLERANCE * scale
        if interact != bool({(i, j), (j, i) if first == second else (i, j)} & set(step.pairs)):
            raise BrokenError(_wrong_pair(step, (first, i), (second, j), interact), step.name)
    return len(every)


def _wrong_pair(step: Step, one: tuple[str, int], other: tuple[str, int], interact: bool) -> str:
    pair = " with ".join(f"{port} of {step.views[port][view]}" for port, view in (one, other))
    if interact:
        return f"{step.name} compares {pair}, which is not in its list of pairs"
    return f"{step.name} lists {pair} as a pair, but does not compare them"
