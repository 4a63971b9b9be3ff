"""Properties of single calls: what comes out for what goes in."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sslgraph.axes import bind_axes
from sslgraph.nodes.batch_norm import BatchNorm
from sslgraph.nodes.shuffle import COUNTER
from sslgraph.ports import Out
from sslgraph.testing.subject import Inputs, Subject, close

_FLOATS = ("image", "tokens", "embedding", "logits", "probs", "weight", "loss")
_WHOLE = ("index", "label", "text")


def shapes(subject: Subject) -> str:
    """Outputs have the declared axes, with 1, 2 and 3 views."""
    for views in _view_counts(subject):
        inputs = subject.inputs(views=views)
        outputs = subject.run(subject.node(views=views), inputs)
        bound: dict[str, tuple[int, str]] = {}
        for name, value in inputs.items():
            bind_axes(
                subject.declaration.inputs[name], tuple(value.shape), bound, vars(subject.config)
            )
        for name, value in outputs.items():
            port = subject.declaration.outputs[name]
            shape = tuple(value.shape)
            wrong = bind_axes(port, shape, bound, vars(subject.config))
            one_view = (
                port.on_the_wire()[:1] == ("V",) and "V" in bound and shape[0] != bound["V"][0]
            )
            if wrong or one_view:
                sizes = {axis: size for axis, (size, _) in bound.items()}
                subject.fail(
                    f"shape of output {name} with {views} views", shape, f"{port}, {sizes}"
                )
    return ""


def kinds(subject: Subject) -> str:
    """Outputs are numbers of the declared kind: whole, true or false, finite, probabilities."""
    inputs = subject.inputs()
    for name, value in subject.run(subject.node(), inputs).items():
        kind = _kind(subject, subject.declaration.outputs[name])
        property = f"kind of output {name}"
        if kind == "mask" and value.dtype != torch.bool:
            subject.fail(property, value.dtype, "a mask of true and false")
        if kind in _WHOLE and (value.is_floating_point() or value.dtype == torch.bool):
            subject.fail(property, value.dtype, f"whole numbers for {kind}")
        if kind in _FLOATS and not value.is_floating_point():
            subject.fail(property, value.dtype, f"floating point numbers for {kind}")
        if value.is_floating_point() and not value.isfinite().all():
            subject.fail(property, "numbers that are not finite", "finite numbers")
        if kind == "probs" and ((value < 0).any() or not close(value.sum(-1), value.sum(-1) ** 0)):
            subject.fail(property, "rows that are no distribution", "rows >= 0 that sum to 1")
    return ""


def lifting(subject: Subject) -> str:
    """A node that is declared for one view treats views alike: one at a time or all together."""
    ports = subject.declaration.reads.values()
    if not any(not port.has_views or port.axes[:1] == ("...",) for port in ports):
        return "the node spells the view axis itself"
    for training in (True, False):
        node = subject.node(views=3).train(training)
        if training and not node._apart and any(isinstance(m, BatchNorm) for m in node.modules()):
            continue  # views that share statistics are not to be told apart
        inputs = subject.inputs(views=3)
        together = subject.run(node, inputs)
        alone = [subject.run(node, _one_view(subject, inputs, view)) for view in range(3)]
        for name, value in together.items():
            joined = torch.cat([part[name] for part in alone])
            if not close(value, joined):
                subject.fail(
                    f"lifting of output {name} ({'training' if training else 'evaluation'})",
                    f"views together give {_told(value)}",
                    f"what views one at a time give, {_told(joined)}",
                )
    return ""


def pure(subject: Subject) -> str:
    """A training forward changes neither inputs nor state, what batch norm counts aside."""
    node, inputs = subject.node(), subject.inputs()
    kept = {name: value.clone() for name, value in inputs.items()}
    running = {
        f"{name}.{key}" if name else key
        for name, module in node.named_modules()
        if isinstance(module, BatchNorm)
        for key, _ in module.named_buffers()
    } | {COUNTER}
    before = {name: buffer.clone() for name, buffer in node.named_buffers()}
    weights = {name: parameter.detach().clone() for name, parameter in node.named_parameters()}
    subject.run(node, inputs)
    for name, value in inputs.items():
        if not torch.equal(value, kept[name]):
            subject.fail("a call leaves its inputs alone", f"input {name} was changed", "no change")
    after = {**dict(node.named_buffers()), **dict(node.named_parameters())}
    for name, value in {**before, **weights}.items():
        if name not in running and not torch.equal(after[name], value):
            subject.fail(
                "forward writes no state", f"{name} was changed", "a change in write() only"
            )
    return ""


def randomness(subject: Subject) -> str:
    """Equal samples get equal draws in any batch; no global generator is used."""
    node, inputs = subject.node(), subject.inputs()
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    first, again = subject.run(node, inputs), subject.run(subject.node(), inputs)
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    if not torch.equal(before[0], after[0]) or before[1:] != after[1:]:
        subject.fail("randomness", "a global generator was used", "draws keyed by seed and sample")
    for name, value in first.items():
        if not torch.equal(value, again[name]):
            subject.fail("randomness", f"two equal calls differ in {name}", "equal outputs")
    if subject.declaration.draws:
        _keyed(subject, inputs, first)
    return ""


def sizes(subject: Subject) -> str:
    """On the meta device a node gives the same shapes as on a real one."""
    inputs = subject.inputs()
    real = subject.run(subject.node(), inputs)
    meta = {name: value.to("meta") for name, value in inputs.items()}
    node = subject.node(device="meta")
    reads = subject.reads(meta)
    declared = node.sizes(*(tuple(value.shape) for value in reads.values()))
    found = declared or [tuple(value.shape) for value in subject.run(node, meta).values()]
    for (name, value), shape in zip(real.items(), found, strict=True):
        if tuple(value.shape) != tuple(shape):
            subject.fail(f"size of {name} on the meta device", tuple(shape), tuple(value.shape))
    return ""


def _keyed(subject: Subject, inputs: Inputs, outputs: Mapping[str, Tensor]) -> None:
    """Reverse the batch and leave a sample out: every sample keeps its result."""
    reverse = {}
    for name, value in inputs.items():
        axis = subject.declaration.inputs[name].on_the_wire().index("B")
        reverse[name] = value.flip(axis).narrow(axis, 0, value.shape[axis] - 1)
    other = subject.run(subject.node(), reverse)
    alike = dict(inputs)
    for name, port in subject.declaration.inputs.items():
        if port.kind.allowed[0] != "index":
            axis = port.on_the_wire().index("B")
            alike[name] = _first_everywhere(inputs[name], axis)
    of_equals = subject.run(subject.node(), alike)
    for name, value in outputs.items():
        axis = subject.declaration.outputs[name].on_the_wire().index("B")
        expected = value.flip(axis).narrow(axis, 0, value.shape[axis] - 1)
        if not close(other[name], expected):
            subject.fail("randomness", f"{name} of a sample changes with its batch", "no change")
        parts = of_equals[name].unbind(axis)
        if all(close(part, parts[0]) for part in parts):
            subject.fail(
                "randomness", f"{name} is equal for all positions", "draws of its own each"
            )


def _first_everywhere(value: Tensor, axis: int) -> Tensor:
    """The first sample in the place of every sample."""
    return value.narrow(axis, 0, 1).expand_as(value).contiguous()


def _view_counts(subject: Subject) -> list[int]:
    return [n for n in (1, 2, 3) if subject.suits(n)] if subject.takes_views else [1]


def _one_view(subject: Subject, inputs: Inputs, view: int) -> Inputs:
    declared = subject.declaration.inputs
    return {
        name: value[view : view + 1]
        if declared[name].on_the_wire()[:1] in (("V",), ("...",))
        else value
        for name, value in inputs.items()
    }


def _kind(subject: Subject, port: Out) -> str:
    for name, given in subject.declaration.inputs.items():
        if port.kind.variable and given.kind.variable == port.kind.variable:
            allowed = subject.declaration.inputs[name].kind.allowed
            return "embedding" if "embedding" in allowed else allowed[0]
    return port.kind.allowed[0]


def _told(value: Tensor) -> str:
    return f"shape {tuple(value.shape)}, mean {float(value.float().mean()):.6g}"
