"""Sizes and gradients: the graph is built and run once on the meta device, backward included.

No memory is touched, so a model that would fill a GPU is checked on a laptop. Every fault becomes
one problem at the line of its node.

Codes: E204 wrong size - E401 a node can't run on what comes in - E403 a node can't be built -
E404 a setting does not suit what comes in - E405 an output is not what the node type declares -
E406 weights that can't be read or do not fit; those of `check_gradients`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sslgraph.axes import Mismatch, bind_axes
from sslgraph.check_gradients import (
    decay_problems,
    gradient_problems,
    library_text,
    weight_problems,
)
from sslgraph.checks.origins import size_setting
from sslgraph.checks.references import DATA, Port
from sslgraph.errors import Problem
from sslgraph.make import make_module, weights_path
from sslgraph.nodes.base import Node, SettingError
from sslgraph.plan import Plan, Step
from sslgraph.ports import BATCH
from sslgraph.walk import Values, inputs_of, outputs_of, value_of
from sslgraph.weights import WeightsError, matched

# Odd and unlike any usual width, so that no other axis has this size by chance.
META_BATCH = 11
TEXT_LENGTH = 77
_DTYPES = {"mask": torch.bool, **dict.fromkeys(("index", "label", "text"), torch.int64)}


@dataclass
class Sizes:
    """What the meta run found.

    Args:
        shapes: Shape of each port; the batch axis has `META_BATCH`.
        axes: For each node the axis sizes that its inputs bind.
        parameters: For each node its number of parameters.
        problems: What was wrong.
    """

    shapes: dict[Port, tuple[int, ...]] = field(default_factory=dict)
    axes: dict[str, dict[str, int]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def measure(plan: Plan) -> Sizes:
    """Build and run a plan on the meta device, forward and backward."""
    sizes = Sizes()
    values = _data(plan)
    modules: dict[str, Node] = {}
    with torch.random.fork_rng(devices=[]):
        for step in plan.steps:
            if _has_inputs(step, values):
                _measured(plan, step, values, modules, sizes)
        if not sizes.problems:
            sizes.problems += gradient_problems(plan, modules, values)
            sizes.problems += decay_problems(plan, modules)
    sizes.shapes.update({port: tuple(value.shape) for port, value in values.items()})
    return sizes


def _data(plan: Plan) -> Values:
    side = plan.canvas()
    shapes = {
        "image": (META_BATCH, plan.graph.data.batch.channels, side, side),
        "label": (META_BATCH,),
        "index": (META_BATCH,),
        "sample": (META_BATCH,),
        "text": (META_BATCH, TEXT_LENGTH),
    }
    assert set(shapes) == set(BATCH)
    return {
        (DATA, name): torch.empty(
            (1, *shape),
            dtype=torch.float32 if name == "image" else torch.int64,
            device="meta",
        )
        for name, shape in shapes.items()
    }


def _has_inputs(step: Step, values: Values) -> bool:
    return all(w.source in values for wires in step.wires("read").values() for w in wires)


def _measured(
    plan: Plan, step: Step, values: Values, modules: dict[str, Node], sizes: Sizes
) -> None:
    """Build and run one node; where that fails it has no values, and a problem."""
    joined = _joined(plan, step, values, sizes)
    if joined is None:
        return
    axes = _bound(plan, step, joined, values, sizes)
    if axes is None:
        return
    tried = {*sizes.axes}
    sizes.axes[step.name] = {**sizes.axes.get(step.name, {}), **axes}
    if any(member.node not in {*modules, *tried} for member in step.members):
        _build_ahead(plan, step, joined, modules, sizes)
    module = _built(plan, step, axes, modules, sizes)
    if module is None:
        return
    modules[step.name] = module
    sizes.parameters[step.name] = sum(p.numel() for p in module.parameters())
    sizes.problems += weight_problems(plan, step, module)
    try:
        module.fits(axes)
        result = _run(module, joined)
    except SettingError as fault:
        sizes.problems += setting_problems(plan, step, fault)
        return
    except Exception as fault:  # any library error of a meta run is this node's problem
        sizes.problems.append(_cannot_run(plan, step, joined, fault))
        return
    wrong = _undeclared(step, result, axes)
    if wrong:
        sizes.problems.append(wrong)
        return
    values.update(outputs_of(step, result))


def _build_ahead(
    plan: Plan,
    step: Step,
    joined: list[Tensor | None],
    modules: dict[str, Node],
    sizes: Sizes,
) -> None:
    """Build what a node repeats for the sizes that come into that node.

    Needed where the original runs after its copy, such as a teacher that makes the masks of its
    student.
    """
    arriving = dict(zip(step.declaration.reads, joined, strict=True))
    made: dict[str, Tensor] = {}
    for place, member in enumerate(step.members):
        prefix = "" if place == 0 else f"{member.name}."
        inputs = {
            name: made[member.links[name]] if name in member.links else arriving[prefix + name]
            for name in member.declaration.reads
        }
        bound: dict[str, tuple[int, str]] = {}
        for name, value in inputs.items():
            if value is not None:
                port = member.declaration.inputs[name]
                bind_axes(port, tuple(value.shape), bound, member.config.__dict__)
        axes = {axis: size for axis, (size, _) in bound.items()}
        original = _built(plan, plan.step(member.node), axes, modules, sizes)
        if original is None or "." in member.path:
            return
        modules[member.node] = original
        sizes.axes[member.node] = axes
        result = _run(original, list(inputs.values()))
        made = {port[1]: value for port, value in outputs_of(plan.step(member.node), result)}


def _joined(plan: Plan, step: Step, values: Values, sizes: Sizes) -> list[Tensor | None] | None:
    try:
        return inputs_of(step, values, evaluating=False)
    except (RuntimeError, TypeError):
        pass
    for port, wires in step.wires("read").items():
        shapes = [tuple(values[wire.source].shape[1:]) for wire in wires]
        odd = next((place for place, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            sizes.problems.append(
                Problem(
                    "E204",
                    f"the list into {step.name}.{port} joins views of different shapes",
                    plan.graph.document.span(*wires[odd].reference.path),
                    under=_shape(shapes[odd]),
                    expected=f"{_shape(shapes[0])} as from {wires[0].reference.text}",
                    got=f"{_shape(shapes[odd])} from {wires[odd].reference.text}",
                    help=f"give them one shape, or add a node for the other one{_again(step)}",
                )
            )
    return None


def _again(step: Step) -> str:
    """How another node has the same weights, for types with weights."""
    return f": {{use: shared, of: {step.name}, in: ...}}" if step.declaration.learns else ""


def _bound(
    plan: Plan, step: Step, joined: list[Tensor | None], values: Values, sizes: Sizes
) -> dict[str, int] | None:
    """Axis sizes that the inputs bind, or None with a problem.

    What is stored binds axes too, where it is known: a queue is as wide as its keys.
    """
    bound: dict[str, tuple[int, str]] = {}
    settings = step.config.__dict__
    before = len(sizes.problems)
    for (name, port), value in zip(step.declaration.reads.items(), joined, strict=True):
        if value is None:
            continue
        wrong = bind_axes(port, tuple(value.shape), bound, settings)
        if wrong:
            sizes.problems.append(_wrong_size(plan, step, name, tuple(value.shape), wrong))
    for name, wires in step.wires("write").items():
        known = all(wire.source in values for wire in wires)
        if name not in step.declaration.reads and known:
            value = value_of(wires, values, evaluating=False)
            wrong = bind_axes(step.declaration.inputs[name], tuple(value.shape), bound, settings)
            if wrong:
                sizes.problems.append(_wrong_size(plan, step, name, tuple(value.shape), wrong))
    if len(sizes.problems) > before:
        return None
    return {axis: size for axis, (size, _) in bound.items()}


def _wrong_size(
    plan: Plan, step: Step, name: str, shape: tuple[int, ...], wrong: Mismatch | str
) -> Problem:
    port = step.declaration.inputs[name]
    wire = step.inputs[name][0]
    source = f"from {wire.reference.text}"
    span = plan.graph.document.span(*wire.reference.path)
    kind = plan.kinds.get(wire.source, BATCH.get(wire.source[1], ("",))[0])
    under = f"{kind}{_shape(shape)}"
    if isinstance(wrong, str):
        title = f"{step.name}.{name} has the wrong number of axes"
        return Problem(
            "E204", title, span, under=under, expected=str(port), got=f"{under} {source}"
        )
    why = wrong.why.replace("from ", f"from {step.name}.")
    return Problem(
        "E204",
        f"axis {wrong.axis} of {step.name}.{name} does not match",
        span,
        under=under,
        expected=f"{wrong.axis} = {wrong.expected} ({why})",
        got=f"{wrong.axis} = {wrong.got} ({source})",
        notes=tuple(_deciding(plan, step, name, wrong)),
    )


def _deciding(plan: Plan, step: Step, name: str, wrong: Mismatch) -> Iterator[str]:
    """The settings that decided on both sizes, where they are found."""
    declarations = {s.name: s.declaration for s in plan.steps}
    inputs = {s.name: s.inputs for s in plan.steps}
    other = wrong.why.removeprefix("from ")
    for port, size in ((other, wrong.expected), (name, wrong.got)):
        declared = step.declaration.inputs.get(port)
        if declared is None or wrong.axis not in declared.axes:
            continue
        place = len(declared.axes) - declared.axes.index(wrong.axis)
        setting = size_setting(declarations, inputs, step.inputs[port][0].source, place)
        if setting:
            yield f"{wrong.axis} = {size} is {setting}"


def _built(
    plan: Plan, step: Step, axes: Mapping[str, int], modules: Mapping[str, Node], sizes: Sizes
) -> Node | None:
    if step.name in modules:
        return modules[step.name]
    if any(member.node not in modules for member in step.members):
        return None  # it is broken itself, which was reported
    try:
        with torch.device("meta"):
            module = make_module(plan, step, 0, axes, modules).train()
        path = weights_path(plan, step)
        if path:
            matched(module, path)
        return module
    except WeightsError as fault:
        span = plan.graph.document.span("nodes", step.name, "weights")
        title = f"the weights of {step.name} can't be used"
        sizes.problems.append(Problem("E406", title, span, notes=(str(fault),)))
    except SettingError as fault:
        sizes.problems += setting_problems(plan, step, fault)
    except Exception as fault:  # any library error of a meta build is this node's problem
        bound = ", ".join(f"{axis} = {size}" for axis, size in axes.items() if axis != "B")
        sizes.problems.append(
            Problem(
                "E403",
                f"{step.name} ({step.declaration.use}) can't be built",
                step.span,
                got=bound,
                notes=(library_text(fault),),
            )
        )
    return None


def _run(module: Node, joined: list[Tensor | None]) -> Any:
    shapes = module.sizes(*(None if x is None else tuple(x.shape) for x in joined))
    if shapes is None:
        return module(*joined)
    kinds = [port.kind.allowed[0] for port in module.declaration.outputs.values()]
    made = [
        torch.empty(shape, dtype=_DTYPES.get(kind, torch.float32), device="meta")
        for shape, kind in zip(shapes, kinds, strict=True)
    ]
    return made[0] if len(made) == 1 else module.Outputs(*made)


def _cannot_run(plan: Plan, step: Step, joined: list[Tensor | None], fault: Exception) -> Problem:
    arriving = [
        f"{name} = {_shape(tuple(value.shape))}"
        for (name, port), value in zip(step.declaration.reads.items(), joined, strict=True)
        if value is not None and not port.default
    ]
    return Problem(
        "E401",
        f"{step.name} ({step.declaration.use}) can't run on what comes in",
        step.span,
        got=", ".join(arriving),
        notes=(library_text(fault),),
    )


def setting_problems(plan: Plan, step: Step, first: SettingError) -> list[Problem]:
    """What a node said of its settings, each at its line."""
    return [
        Problem(
            "E404",
            f"{step.name}: {fault}",
            plan.graph.document.span("nodes", step.name, *fault.path),
            expected=fault.expected,
            got=fault.got,
            help=fault.help,
        )
        for fault in (first, *first.more)
    ]


def _undeclared(step: Step, result: Any, axes: Mapping[str, int]) -> Problem | None:
    """An output whose shape is not the declared one: a fault of the node type, not of the graph."""
    bound = {axis: (size, "its inputs") for axis, size in axes.items()}
    for (_, name), value in outputs_of(step, result):
        port = step.declaration.outputs[name]
        wrong = bind_axes(port, tuple(value.shape), bound, step.config.__dict__)
        if wrong:
            return Problem(
                "E405",
                f"{step.name}.{name} is not what {step.declaration.use} declares",
                step.span,
                expected=str(port),
                got=_shape(tuple(value.shape)),
                notes=(f"this is a fault of the node type ({step.declaration.family})",),
            )
    return None


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{' '.join(spelled(shape))}]"


def spelled(shape: tuple[int, ...]) -> tuple[str, ...]:
    """A measured shape for people, with B for the batch, which stands first or behind the views."""
    batch = 1 if META_BATCH in shape[1:2] else 0
    return tuple(
        "B" if place == batch and size == META_BATCH else str(size)
        for place, size in enumerate(shape)
    )
