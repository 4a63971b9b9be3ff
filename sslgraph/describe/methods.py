"""Pages about methods, as data: the picture in text, the nodes, and the training in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sslgraph.checking import Report
from sslgraph.checks.references import DATA, Port
from sslgraph.describe.wording import plural
from sslgraph.drawing.words import amount, number
from sslgraph.plan import Plan, Step
from sslgraph.schedules import Schedule
from sslgraph.spec import Graph
from sslgraph.train_spec import Clip, Drops, LearningRate, TrainSpec

_OPTIMIZERS = {"sgd": "SGD", "lars": "LARS", "larc": "LARC", "adam": "Adam", "adamw": "AdamW"}


@dataclass(frozen=True)
class NodeLine:
    """One node of a method, in words."""

    name: str
    use: str
    inputs: str
    outputs: str
    parameters: str
    notes: str


def node_lines(found: Report) -> list[NodeLine]:
    """The nodes in the order in which they run; shapes and parameters where they were measured."""
    assert found.plan is not None  # the caller reports problems instead
    return [_node_line(found, found.plan, step) for step in found.plan.steps]


def _node_line(found: Report, plan: Plan, step: Step) -> NodeLine:
    inputs = [
        f"{port}: {_listed([wire.reference.text for wire in wires])}"
        for port, wires in step.inputs.items()
        if [wire.reference.text for wire in wires] != [step.declaration.inputs[port].default]
    ]
    if len(inputs) == 1:
        inputs = [inputs[0].partition(": ")[2]]
    several = len(step.declaration.outputs) > 1
    outputs = [
        _named(port if several else "", _shape(found, plan, (step.name, port)))
        for port in step.declaration.outputs
    ]
    parameters = found.sizes.parameters.get(step.name, 0) if found.sizes else 0
    return NodeLine(
        name=step.name,
        use=step.declaration.use,
        inputs=", ".join(inputs),
        outputs=", ".join(outputs),
        parameters=amount(parameters) if parameters else "",
        notes=", ".join(_notes(plan, step)),
    )


def _named(port: str, shape: str) -> str:
    """`tap9: tokens[2 B 49 64]`; no name where it is that of the kind."""
    return shape if not port or port == shape.partition("[")[0] else f"{port}: {shape}"


def _notes(plan: Plan, step: Step) -> Iterator[str]:
    if step.name in {node for node, _ in plan.losses.values()}:
        yield "minimised"
    if step.declaration.stops_gradient:
        yield "no gradient"
    if not step.trained:
        yield "not trained"
    if step.declaration.writes:
        commits = f", used from the next {step.declaration.commits} on"
        yield f"written each {step.declaration.writes}" + commits * bool(step.declaration.commits)


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"


def _shape(found: Report, plan: Plan, port: Port) -> str:
    """Kind and shape of a port, the batch axis as B."""
    kind = plan.kinds.get(port, "")
    shape = found.sizes.shapes.get(port) if found.sizes else None
    if found.sizes is None or shape is None:
        return kind
    from sslgraph.check_sizes import spelled  # loads torch, which measuring has done already

    return f"{kind}[{' '.join(spelled(shape))}]" if shape else kind


def tree(plan: Plan) -> list[str]:
    """The nodes as an indented tree, each below the last of its inputs to be computed."""
    place = {step.name: position for position, step in enumerate(plan.steps)}
    children: dict[str, list[Step]] = {}
    for step in plan.steps:
        parents = _parents(step)
        parent = max(parents, key=lambda name: place.get(name, -1), default=DATA)
        children.setdefault(parent, []).append(step)
    return ["batch", *_branch(children, DATA, "")]


def _parents(step: Step) -> list[str]:
    sources = [w.source[0] for wires in step.wires("read").values() for w in wires]
    return list(dict.fromkeys(sources))


def _branch(children: Mapping[str, list[Step]], parent: str, pad: str) -> Iterator[str]:
    steps = children.get(parent, [])
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        others = [name for name in _parents(step) if name not in (parent, DATA)]
        also = f", also from {', '.join(others)}" if others else ""
        use = "" if step.declaration.use == step.name else f"  {step.declaration.use}"
        yield f"{pad}{'`-' if last else '|-'} {step.name}{use}{also}"
        yield from _branch(children, step.name, pad + ("   " if last else "|  "))


def recipe(graph: Graph) -> list[tuple[str, str]]:
    """The run in words: what it is about, and how it is."""
    train = graph.train
    lines = [
        ("optimizer", _OPTIMIZERS[train.optimizer]),
        ("learning rate", _learning_rate(train.lr, train.batch_size)),
        ("weight decay", _decay(train)),
        ("length", str(train.length)),
        ("batch", plural(train.batch_size, "sample") + _accumulated(train)),
        ("batch norm", _batch_norm(train)),
    ]
    if train.clip:
        lines.append(("clipping", _clipping(train.clip)))
    if train.amp != "none":
        lines.append(("precision", f"autocast to {train.amp}"))
    terms = (_term(name, weight) for name, weight in graph.minimize.items())
    return [("minimises", " + ".join(terms)), *lines]


def _term(name: str, weight: float | Schedule) -> str:
    return name if weight == 1 else f"{number(weight)} x {name}"


def _learning_rate(lr: LearningRate, batch_size: int) -> str:
    text = f"{lr.scaled(batch_size):g}"
    if lr.base is not None:
        share = f"batch / {lr.per}" if isinstance(lr.per, int) else f"sqrt(batch / {lr.per[5:]})"
        text += f" ({lr.base:g} x {share})"
    if lr.warmup.value:
        text += f", warmed up from {lr.start:g} over {lr.warmup}"
    if isinstance(lr.shape, Drops):
        text += f", then x {lr.shape.times:g} at {', '.join(map(str, lr.shape.at))}"
    elif lr.shape == "cosine":
        horizon = "" if lr.over is None else f" over {lr.over} in all, the warm-up included,"
        text += f", then{horizon} half a cosine to {lr.end:g}"
    factors = lr.scale.model_dump(by_alias=True, exclude_defaults=True).items()
    text += "".join(f", x {factor:g} on {kind}" for kind, factor in factors)
    if lr.layer_decay != 1:
        text += f", x {lr.layer_decay:g} from each block of an encoder to the one before"
    return text + (", set once an epoch" if lr.by == "epoch" else "")


def _decay(train: TrainSpec) -> str:
    if train.weight_decay == 0:
        return "none"
    apart = f", none on {', '.join(train.no_decay)}" if train.no_decay else ""
    return f"{number(train.weight_decay)}{apart}"


def _clipping(clip: Clip) -> str:
    words = {"run": "all gradients", "tensor": "each tensor", "node": "each node"}
    lists = [" and ".join(names) for names in clip.scope if isinstance(names, list)]
    what = words[clip.scope] if isinstance(clip.scope, str) else "; ".join(lists)
    return f"{what} to norm {clip.norm:g}"


def _accumulated(train: TrainSpec) -> str:
    return f", each in {train.accumulate} forward passes" if train.accumulate > 1 else ""


def _batch_norm(train: TrainSpec) -> str:
    rule = train.batch_norm
    views = "each view apart" if rule.per == "view" else "all views together"
    ranks = {
        "all": "over all processes",
        "own": "in each process",
        "shuffled": "in each process over shuffled samples",
    }
    groups = f" in {rule.groups} groups" if rule.groups > 1 else ""
    return f"{views}, {ranks[rule.ranks]}{groups}, where a node does not say otherwise"
