"""Properties of the numbers: gradients, lower precision, compilation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.testing import CompileCounterWithBackend

from sslgraph.nodes.base import Node
from sslgraph.testing.subject import Inputs, Subject, close, differentiable


def gradients(subject: Subject) -> str:
    """Every trained parameter and every input gets a finite gradient; none passes a stop."""
    node, inputs = subject.node(), _watched(subject)
    total = _total(subject.run(node, inputs))
    if total.requires_grad:
        total.backward()
    for name, parameter in node.named_parameters():
        if parameter.requires_grad:
            _finite(subject, f"gradient of parameter {name}", parameter.grad)
    for name, value in subject.reads(inputs).items():
        if subject.declaration.stops_gradient:
            if value.grad is not None and value.grad.any():
                subject.fail(f"gradient of input {name}", "a gradient", "none: it stops gradients")
        elif value.requires_grad:
            _finite(subject, f"gradient of input {name}", value.grad)
            if not value.grad.any():  # type: ignore[union-attr]
                subject.fail(f"gradient of input {name}", "zero everywhere", "a gradient")
    if not any(value.requires_grad for value in subject.reads(inputs).values()):
        return "" if any(True for _ in node.parameters()) else "nothing to differentiate"
    return ""


def autocast(subject: Subject) -> str:
    """Under bfloat16 autocast outputs and gradients stay finite, shapes stay."""
    plain = subject.run(subject.node(), subject.inputs())
    node, inputs = subject.node(), _watched(subject)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = subject.run(node, inputs)
    for name, value in outputs.items():
        if value.shape != plain[name].shape:
            subject.fail(f"autocast of output {name}", tuple(value.shape), tuple(plain[name].shape))
        if not value.isfinite().all():
            subject.fail(f"autocast of output {name}", "numbers that are not finite", "finite ones")
    total = _total(outputs)
    if total.requires_grad:
        total.backward()
    for name, parameter in node.named_parameters():
        if parameter.requires_grad:
            _finite(subject, f"autocast, gradient of parameter {name}", parameter.grad)
    return ""


def compiled(subject: Subject) -> str:
    """`torch.compile` in one graph gives the same, and once for every value of a number."""
    if subject.declaration.draws:
        return "a node that draws runs outside compiled regions"
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    fast, plain = subject.node(), subject.node()
    run = torch.compile(fast, backend=counter, fullgraph=True)
    inputs = subject.reads(subject.inputs())
    for factor in (1.0, 1.25, 1.5):  # a schedule that runs
        for node in (fast, plain):
            for name in _numbers(node):
                getattr(node, name).mul_(factor)
        expected = _tuple(plain(*inputs.values()))
        try:
            found = _tuple(run(*inputs.values()))
        except (TorchDynamoException, RuntimeError) as failure:
            told = str(failure).strip().splitlines()[0]
            subject.fail("compiled", f"no graph of the whole: {told}", "one graph")
        for a, b in zip(expected, found, strict=True):
            if not close(a, b):
                given, right = b.flatten()[:4].tolist(), a.flatten()[:4].tolist()
                subject.fail("compiled", f"begins with {given}", f"{right}, as not compiled")
    if counter.frame_count > 1:
        told = f"{counter.frame_count} compilations"
        subject.fail("compiled", told, "one for all values of numbers")
    return "" if counter.frame_count else "nothing in it to compile"


def _numbers(node: Node) -> list[str]:
    """Names of the 0-d buffers that a schedule could move."""
    persistent = node.state_dict().keys()
    return [
        name
        for name, value in node.named_buffers(recurse=False)
        if value.dim() == 0 and name not in persistent and name in type(node.config).model_fields
    ]


def _tuple(result: object) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)  # type: ignore[arg-type]


def _watched(subject: Subject) -> Inputs:
    """Inputs that collect gradients; images that are drawn from are data and need none."""
    inputs = subject.inputs()
    if not subject.declaration.draws:
        for value in subject.reads(inputs).values():
            if differentiable(value):
                value.requires_grad_()
    return inputs


def _total(outputs: dict[str, Tensor]) -> Tensor:
    """One number that every element of every output moves, each differently."""
    total = torch.zeros(())
    for value in outputs.values():
        if differentiable(value):
            weights = torch.linspace(0.5, 1.5, max(1, value.numel())).view(value.shape)
            total = total + (value.float() * weights).sum()
    return total


def _finite(subject: Subject, property: str, grad: Tensor | nn.Parameter | None) -> None:
    if grad is None:
        subject.fail(property, "none", "a gradient")
    if not grad.isfinite().all():
        subject.fail(property, "numbers that are not finite", "finite numbers")
