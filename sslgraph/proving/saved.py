"""A state dict holds all that a run needs to go on, and both readers of a plan agree."""

from __future__ import annotations

import torch

from sslgraph.checks.references import DATA
from sslgraph.proving.case import Case
from sslgraph.proving.compare import changed, gradients, state
from sslgraph.proving.given import fed
from sslgraph.proving.result import BrokenError, listed
from sslgraph.walk import on_the_wire, walk


def state_dict(case: Case) -> str:
    """Loaded into a fresh method it goes on as the first one, to the last bit."""
    used, fresh = case.method(), case.fresh()
    for number in range(2):
        case.train(used, case.given(number))
    saved = used.state_dict()
    with torch.no_grad():
        for value in fresh.state_dict(keep_vars=True).values():
            value.add_(1)
    fresh.load_state_dict(saved)
    first, second = (case.forward(method, case.given(2)) for method in (used, fresh))
    for name, term in first.terms.items():
        if not torch.equal(term, second.terms[name]):
            difference = float((term - second.terms[name]).detach().abs())
            raise BrokenError(
                f"{name} of the next step is off by {difference:.2g} after load_state_dict: "
                "something that a run changes is not in the state dict",
                case.plan.losses[name][0],
            )
    ours, theirs = gradients(used, first.loss), gradients(fresh, second.loss)
    for name, gradient in ours.items():
        other = theirs[name]
        same = gradient is other if gradient is None or other is None else (gradient == other).all()
        if not same:
            text = f"the gradient of {name} differs after load_state_dict"
            raise BrokenError(text, name.partition(".")[0])
    used.after_step()
    fresh.after_step()
    odd = changed(state(used), state(fresh))
    if odd:
        names = listed(name.removeprefix("nodes.") for name in odd)
        raise BrokenError(f"{names} differs a step after load_state_dict")
    return f"{len(saved)} tensors; loss, gradients and state of the next step equal to the bit"


def walked(case: Case) -> str:
    """Running the plan node by node gives what the emitted code gives, to the last bit."""
    given, steps = case.given(), case.method()
    output = case.forward(case.method(), given)
    steps.clock.turn(steps.hands())
    with fed(steps, given.views):
        values = walk(steps.plan, steps.nodes, on_the_wire(given.data), steps.plan.losses.values())
    for name, port in steps.plan.losses.items():
        if not torch.equal(output.terms[name], values[port]):
            raise BrokenError(
                f"{name} is {float(values[port].detach()):.9g} node by node and "
                f"{float(output.terms[name].detach()):.9g} as emitted",
                port[0],
            )
    made = _evaluated(case)
    also = f", {listed(made)} in evaluation" if made else ""
    return f"{listed(output.terms)}{also} equal to the bit"


def _evaluated(case: Case) -> list[str]:
    """The same for the outputs in evaluation; their names."""
    method = case.method().float()
    data = case.given().to(torch.float32).data
    found = method.outputs(data)
    values = {(DATA, name): value for (_, name), value in on_the_wire(data).items()}
    with method.evaluating(), torch.no_grad():
        ports = [wire.source for wire in method.plan.outputs.values()]
        expected = walk(method.plan, method.nodes, values, ports, evaluating=True)
    for name, wire in method.plan.outputs.items():
        if not wire.reference.sliced and not torch.equal(found[name], expected[wire.source]):
            raise BrokenError(f"output {name} differs node by node", wire.source[0])
    return list(found)
