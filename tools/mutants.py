"""Mutants of a method: each one wire cut or crossed, one setting turned, or state out of order.

Nothing here knows a method or a node type by name: what can be cut follows from declarations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from sslgraph.checks.references import DATA, Port, Wire
from sslgraph.plan import Plan, Step
from tools.state_mutants import disorders

Tree = dict[str, Any]
Shapes = Mapping[Port, tuple[int, ...]]

# Settings that say how a layer computes, how it begins or how views look are not wiring.
NOT_WIRING = frozenset(
    {"init", "act", "end", "norm", "form", "bias", "stem", "interpolation", "position", "readout"}
    | {"image_size", "drop_path_shape", "attention"}
)


@dataclass(frozen=True)
class Mutant:
    """One change.

    Args:
        operator: What kind of change.
        text: What was changed, and where.
        tree: The method's file with the change, None where the file stays.
        disorder: Puts state out of order while it is entered, None where the file changes.
    """

    operator: str
    text: str
    tree: Tree | None = None
    disorder: AbstractContextManager[None] | None = None


def mutants(tree: Tree, plan: Plan, shapes: Shapes) -> Iterator[Mutant]:
    """Every mutant of a method.

    Args:
        tree: Its file, parents merged.
        plan: The plan of its small preset.
        shapes: The shape of each port of that preset.
    """
    seen: set[str] = set()
    for operator in (
        crossed_wires,
        other_views,
        stopped_wires,
        plugged,
        unplugged,
        swapped,
        bypassed,
        quick_copies,
        short_chains,
        turned_settings,
        dropped_losses,
    ):
        for text, changed in operator(tree, plan, shapes):
            if text not in seen and changed != tree:
                seen.add(text)
                yield Mutant(operator.__name__.replace("_", " "), text, tree=changed)
    for operator_name, text, disorder in disorders(plan):
        yield Mutant(operator_name, text, disorder=disorder)


Changes = Iterator[tuple[str, Tree]]


def crossed_wires(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """A wire that begins at another port of the same kind and shape; images may have any size."""
    for step in plan.steps:
        for port, wires in step.inputs.items():
            if len(wires) != 1 or wires[0].source[0] == DATA:
                continue
            source, sliced = wires[0].source, wires[0].reference.sliced
            for other in plan.kinds:
                kind = plan.kinds[other]
                alike = kind == plan.kinds.get(source) and other != source
                fits = shapes.get(other) == shapes.get(source) or kind == "image"
                if not (alike and fits) or sliced or other not in shapes:
                    continue
                if other[0] != step.name and step.name not in _behind(plan, other[0]):
                    yield _rewired(tree, step, port, _spelled(plan, other))


def other_views(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """A wire that takes other views of its port."""
    for step in plan.steps:
        for port, wires in step.inputs.items():
            if len(wires) != 1 or not wires[0].reference.sliced:
                continue
            reference, source = wires[0].reference, wires[0].source
            views, first = shapes[source][0], reference.start or 0
            count = (views if reference.stop is None else reference.stop) - first
            base = _spelled(plan, source)
            for start in range(views):
                if start != first and start + count <= views:
                    text = f"{base}.{start}" if count == 1 else f"{base}.{start}:{start + count}"
                    yield _rewired(tree, step, port, text)


def stopped_wires(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """A wire with a stop_grad on it."""
    for step in plan.steps:
        if step.declaration.stops_gradient:
            continue
        for port, wires in step.inputs.items():
            declared = step.declaration.inputs[port]
            if len(wires) != 1 or wires[0].source[0] == DATA or not declared.is_read:
                continue
            if not plan.step(wires[0].source[0]).declaration.learns:
                continue
            text, changed = _rewired(tree, step, port, "stopped")
            node = {"use": "stop_grad", "in": wires[0].reference.text}
            changed["nodes"] = {**changed["nodes"], "stopped": node}
            yield text, changed


def plugged(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """An optional input that is given something, such as a mask on the target."""
    for step in plan.steps:
        for port, declared in step.declaration.inputs.items():
            if not declared.optional or port in step.inputs:
                continue
            for source, kind in plan.kinds.items():
                fits = kind in declared.kind.allowed and source[0] != step.name
                if fits and step.name not in _behind(plan, source[0]):
                    yield _rewired(tree, step, port, _spelled(plan, source))


def unplugged(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """An optional input that is left out, or one view of a list."""
    for step in plan.steps:
        for port, wires in step.inputs.items():
            if step.declaration.inputs[port].optional:
                yield _rewired(tree, step, port, None)
            for left in range(len(wires) if len(wires) > 1 else 0):
                texts = [w.reference.text for i, w in enumerate(wires) if i != left]
                yield _rewired(tree, step, port, texts[0] if len(texts) == 1 else texts)


def swapped(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """Two inputs of a node that change places."""
    for step in plan.steps:
        ports = [p for p in step.inputs if step.declaration.inputs[p].required]
        for i, first in enumerate(ports):
            for second in ports[i + 1 :]:
                a, b = (_written(step.inputs[port]) for port in (first, second))
                _, changed = _rewired(tree, step, first, b)
                _, changed = _rewired(changed, step, second, a)
                yield f"{step.name}: {first} and {second} change places", changed


def bypassed(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """Whoever reads a node reads what comes into it: no predictor, center, stop_grad."""
    for step in plan.steps:
        reads = step.wires("read")
        main = step.declaration.main
        if not main or step.declaration.is_loss:
            continue
        for port, wires in reads.items():
            source = wires[0].source
            same = shapes.get(source) == shapes.get((step.name, main))
            if len(wires) != 1 or wires[0].reference.sliced or not same:
                continue
            changed, touched = tree, False
            for other in plan.steps:
                for place, theirs in other.inputs.items():
                    if any(w.source == (step.name, main) for w in theirs):
                        texts = [
                            _moved(w, wires[0].reference.text)
                            if w.source == (step.name, main)
                            else w.reference.text
                            for w in theirs
                        ]
                        new = texts[0] if len(texts) == 1 else texts
                        _, changed = _rewired(changed, other, place, new)
                        touched = True
            if touched:
                yield f"{step.name}.{port} goes past {step.name}", changed


def quick_copies(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """A slow copy that is the original itself, that follows at once, or that never moves."""
    for step in plan.steps:
        if not (step.declaration.repeats and step.declaration.writes):
            continue
        for momentum, what in ((0.0, "follows at once"), (1.0, "never moves")):
            changed = copy.deepcopy(tree)
            changed["nodes"][step.name]["momentum"] = momentum
            _drop_in_presets(changed, step.name, "momentum")
            yield f"{step.name} {what}", changed
        changed = copy.deepcopy(tree)
        node = changed["nodes"][step.name]
        kept = {key: node[key] for key in ("of", "in") if key in node}
        changed["nodes"][step.name] = {"use": "shared", **kept}
        for preset in changed.get("presets", {}).values():
            (preset.get("nodes") or {}).pop(step.name, None)
        yield f"{step.name} is {' and '.join(m.path for m in step.members)} itself", changed


def short_chains(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """A copy without its last member."""
    for step in plan.steps:
        if len(step.members) > 1:
            changed = copy.deepcopy(tree)
            node = changed["nodes"][step.name]
            node["of"] = node["of"][:-1]
            yield f"{step.name} ends before {step.members[-1].name}", changed


def turned_settings(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """A setting that has some values to choose from, with another one of them."""
    for step in plan.steps:
        if step.declaration.draws and not step.declaration.learns and _makes_views(step):
            continue
        for path, values in _choices(step.config):
            for value in values:
                changed = _set(tree, ("nodes", step.name, *path), value)
                _drop_in_presets(changed, step.name, path[0])
                yield f"{step.name}.{'.'.join(path)} = {value}", changed
    run = plan.graph.train.batch_norm
    for path, values in _choices(run):
        for value in values:
            block = {**run.model_dump(exclude_unset=True), path[0]: value}
            changed = _set(tree, ("train", "batch_norm"), block)
            for preset in changed.get("presets", {}).values():
                (preset.get("train") or {}).pop("batch_norm", None)
            yield f"train.batch_norm.{path[0]} = {value}", changed


def dropped_losses(tree: Tree, plan: Plan, shapes: Shapes) -> Changes:
    """A loss that is not minimised, or with the wrong sign."""
    for name in tree["minimize"]:
        if len(tree["minimize"]) > 1:
            changed = copy.deepcopy(tree)
            del changed["minimize"][name]
            yield f"{name} is not minimised", changed
        weight = tree["minimize"][name]
        if isinstance(weight, (int, float)):
            yield f"{name} is maximised", _set(tree, ("minimize", name), -weight)


def _makes_views(step: Step) -> bool:
    return any(port.kind.allowed == ("image",) for port in step.declaration.outputs.values())


def _choices(config: BaseModel | None) -> Iterator[tuple[tuple[str, ...], list[object]]]:
    """Settings that have some values to choose from, and the values that are not in force."""
    for name, info in type(config).model_fields.items() if config is not None else ():
        if name in NOT_WIRING:
            continue
        value = getattr(config, name)
        options = _options(info.annotation)
        if options and (value in options or value is None):
            yield (name,), [option for option in options if option != value]
        elif isinstance(value, BaseModel) and name == "batch_norm":
            yield from (((name, *path), other) for path, other in _choices(value))


def _options(annotation: object) -> list[object]:
    """The values of a Literal or bool, past Annotated, Optional and names."""
    annotation = getattr(annotation, "__value__", annotation)
    if annotation is bool:
        return [True, False]
    origin = get_origin(annotation)
    if origin is Literal:
        return list(get_args(annotation))
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return []


def _behind(plan: Plan, name: str) -> set[str]:
    """The nodes that a node's output depends on within one forward pass."""
    found: set[str] = set()
    waiting = [name]
    steps = {step.name: step for step in plan.steps}
    while waiting:
        step = steps.get(waiting.pop())
        if step is None:
            continue
        for wires in step.wires("read").values():
            new = {wire.source[0] for wire in wires} - found - {DATA}
            found |= new
            waiting += new
    return found


def _spelled(plan: Plan, port: Port) -> str:
    node, name = port
    declared = plan.step(node).declaration
    return node if declared.main == name else f"{node}.{name}"


def _written(wires: tuple[Wire, ...]) -> str | list[str]:
    texts = [wire.reference.text for wire in wires]
    return texts[0] if len(texts) == 1 else texts


def _moved(wire: Wire, text: str) -> str:
    """The reference `text`, cut to the views that a wire takes."""
    reference = wire.reference
    if not reference.sliced:
        return text
    first = "" if reference.start is None else reference.start
    return f"{text}.{first}:{'' if reference.stop is None else reference.stop}"


def _rewired(tree: Tree, step: Step, port: str, to: str | list[str] | None) -> tuple[str, Tree]:
    """The tree with one input of a node given something else, and a line that says so."""
    changed = copy.deepcopy(tree)
    node = changed["nodes"].setdefault(step.name, {})
    written = {name: _written(wires) for name, wires in step.inputs.items()}
    for name, declared in step.declaration.inputs.items():
        if declared.default and written.get(name) == declared.default:
            del written[name]
    if to is None:
        written.pop(port, None)
    else:
        written[port] = to
    node["in"] = written
    before = _written(step.inputs[port]) if port in step.inputs else "nothing"
    return f"{step.name}.{port}: {before} -> {to or 'nothing'}", changed


def _set(tree: Tree, path: tuple[str, ...], value: object) -> Tree:
    changed = copy.deepcopy(tree)
    place = changed
    for key in path[:-1]:
        inner = place.get(key)
        place[key] = place = inner if isinstance(inner, dict) else {}
    place[path[-1]] = value
    return changed


def _drop_in_presets(tree: Tree, node: str, setting: str) -> None:
    """Presets must not put a changed setting back."""
    for preset in tree.get("presets", {}).values():
        settings = (preset.get("nodes") or {}).get(node)
        if isinstance(settings, dict):
            settings.pop(setting, None)
