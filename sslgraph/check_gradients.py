"""Gradients and weights of built modules.

What is trained has to be reached by a gradient, and what is not has no training settings. A rate
that falls from block to block needs blocks.

Codes: E302 a parameter gets no gradient - E304 a loss that no trained parameter reaches - E306
training settings where nothing trains - E307 a copy of what has no weights - W334 a layer decay
that decays nothing - E401 the gradient can't be computed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from sslgraph.checks.gradients import Gradients, listed
from sslgraph.checks.members import Bound
from sslgraph.errors import Problem
from sslgraph.nodes.base import Node
from sslgraph.nodes.depths import blocks_behind
from sslgraph.plan import Plan, Step
from sslgraph.source import Path
from sslgraph.train_spec import LearningRate
from sslgraph.walk import Values

_SHOWN_PARAMETERS = 4


def weight_problems(plan: Plan, step: Step, module: Node) -> Iterator[Problem]:
    """What a node asks of weights that it does not have, as its built module shows.

    Args:
        plan: The plan.
        step: The node.
        module: Its module.
    """
    declared, train, document = step.declaration, step.spec.train, plan.graph.document
    members = [member.path for member in step.members]
    if declared.repeats and declared.writes and not any(True for _ in module.parameters()):
        has = "has" if len(members) == 1 else "have"
        yield Problem(
            "E307",
            f"{step.name} ({declared.use}) has nothing to follow: {listed(members)} "
            f"{has} no weights",
            document.span("nodes", step.name, "of"),
            help=f"use {members[-1]} itself, or name nodes that are trained, such as an encoder",
        )
    if train is None:
        return
    lends = declared.repeats and not declared.writes
    trains = any(parameter.requires_grad for parameter in module.parameters())
    if not trains and (train.enabled or lends):
        yield Problem(
            "E306",
            _untrained(step, members),
            document.span("nodes", step.name, "train", key=True),
            help=_remedy(step, members),
        )


def _untrained(step: Step, members: list[str]) -> str:
    called = f"{step.name} ({step.declaration.use})"
    if not members:
        return f"{called} has no weights to train"
    if step.declaration.writes:
        return f"{called} is never trained: it follows {listed(members)}"
    return f"{called} has no weights of its own: it uses those of {listed(members)}"


def _remedy(step: Step, members: list[str]) -> str:
    if not members:
        return "remove 'train'"
    elsewhere = f"set it at {' or '.join(members)}"
    if step.declaration.writes:
        return f"remove 'train', or {elsewhere}, whose gradients train both"
    if step.spec.train is not None and not step.spec.train.enabled:
        return f"remove 'train'; to keep gradients from {members[0]} here, use a stop_grad"
    return f"remove 'train', or {elsewhere}"


def gradient_problems(plan: Plan, modules: Mapping[str, Node], values: Values) -> Iterator[Problem]:
    """Run backward from all losses and see what it did not reach.

    Args:
        plan: The plan.
        modules: The module of each node.
        values: What a training forward gave.
    """
    losses = {name: values[port] for name, port in plan.losses.items()}
    unmoved = [name for name, loss in losses.items() if not loss.requires_grad]
    for name in unmoved:
        yield Problem(
            "E304",
            f"nothing that is trained reaches {name}",
            plan.graph.document.span("minimize", name, key=True),
            notes=tuple(_stops_before(plan, name)),
            help="wire a trained node into it that no stop-gradient cuts off",
        )
    if unmoved or not losses:
        return
    try:
        torch.stack(list(losses.values())).sum().backward()
    except Exception as fault:  # a library error in backward has no node; say what it was
        span = plan.graph.document.span("minimize", key=True)
        note = library_text(fault)
        yield Problem("E401", "the gradient can't be computed", span, notes=(note,))
        return
    for step in plan.steps:
        unreached = [
            f"{step.name}.{name}"
            for name, parameter in modules[step.name].named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        if unreached:
            yield _unreached(plan, step, unreached, modules[step.name])


def _unreached(plan: Plan, step: Step, names: list[str], module: Node) -> Problem:
    shown = ", ".join(names[:_SHOWN_PARAMETERS])
    more = len(names) - _SHOWN_PARAMETERS
    every = len(names) == sum(p.requires_grad for p in module.parameters())
    title = (
        f"no gradient reaches {step.name}"
        if every
        else f"no gradient reaches a part of {step.name}"
    )
    reach = _reach(plan)
    ends = reach.ends(step.name)
    return Problem(
        "E302",
        title,
        step.span,
        got=shown + (f" and {more} more" if more > 0 else ""),
        notes=(*ends, *(reach.followers(step.name) if ends else ())),
        help="wire it to a loss that is minimised, with no stop-gradient between, "
        "or say `train: false`",
    )


def _stops_before(plan: Plan, loss: str) -> Iterator[str]:
    """The nodes before a loss at which gradients end."""
    gradients = _reach(plan)
    for name in gradients.behind([loss]):
        if plan.step(name).declaration.stops_gradient:
            yield f"{gradients.called(name)} lets no gradient through"


def _reach(plan: Plan) -> Gradients:
    nodes = {s.name: Bound(s.spec, s.declaration, s.config, s.members) for s in plan.steps}
    inputs = {step.name: step.inputs for step in plan.steps}
    return Gradients(nodes, inputs, plan.kinds, tuple(node for node, _ in plan.losses.values()))


def decay_problems(plan: Plan, modules: Mapping[str, Node]) -> Iterator[Problem]:
    """Learning rates that are to fall from block to block, where no block trains by them.

    Args:
        plan: The plan.
        modules: The module of each node.
    """
    of_run: Path = ("train", "lr")
    decays = {of_run: False} if plan.graph.train.lr.layer_decay != 1 else {}
    for step in plan.steps:
        path, own = of_run, step.spec.train.lr if step.spec.train else None
        if isinstance(own, LearningRate):
            path = ("nodes", step.name, "train", "lr")
            if own.layer_decay != 1:
                decays[path] = False
        if path in decays:
            decays[path] |= _has_trained_blocks(modules[step.name])
    for path in [path for path, found in decays.items() if not found]:
        yield Problem(
            "W334",
            "'layer_decay' has no effect: no block of an encoder trains by this rate",
            plan.graph.document.span(*path, "layer_decay", key=True),
            expected="an encoder that trains, without a rate of its own"
            if path == of_run
            else "an encoder",
            help="delete 'layer_decay' (with 'null' where it is inherited)",
            severity="warning",
        )


def _has_trained_blocks(module: Node) -> bool:
    behind = blocks_behind(module)
    return any(behind.get(id(p)) for p in module.parameters() if p.requires_grad)


def library_text(fault: BaseException) -> str:
    """The first line of a library's error, with its type."""
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0] if lines else 'without a text'}"
