"""What a loss declares of its value: its floor, and chance, where nothing is told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslgraph.method import Method
from sslgraph.nodes.declare import asked_axes
from sslgraph.plan import Step
from sslgraph.proving.case import Case
from sslgraph.proving.given import watched
from sslgraph.proving.result import BrokenError, InapplicableError

_WIDTH = 4  # of the rows that are tried, so that a batch can be uncorrelated
_FEATURES = ("embedding", "tokens", "image", "logits", "probs")
_CLOSE = 1e-4
_SEARCHES = 60
_SURE = 200.0

Inputs = dict[str, Tensor]


@dataclass
class _Loss:
    """One loss with the inputs that it got in a forward pass.

    Args:
        step: Its step.
        module: The node.
        inputs: What it got, float64.
    """

    step: Step
    module: Any
    inputs: Inputs

    @property
    def features(self) -> list[str]:
        """The inputs that carry what is compared."""
        return [name for name in self.inputs if self.kind(name) in _FEATURES]

    def kind(self, name: str) -> str:
        """The kind on the wire into an input."""
        allowed = self.step.declaration.inputs[name].kind.allowed
        return next((kind for kind in ("embedding", "logits") if kind in allowed), allowed[0])

    def has_images(self, name: str) -> bool:
        """Whether an input has a row for each image, as a memory has not."""
        axes = self.step.declaration.inputs[name].on_the_wire()
        return "B" in axes or "..." in axes

    def value(self, inputs: Inputs) -> Tensor:
        """The loss of these inputs."""
        names = list(self.step.declaration.reads)
        result: Tensor = self.module(*[inputs.get(name) for name in names])
        return result

    def level(self, which: str, inputs: Inputs) -> float | None:
        """A declared level for inputs of these sizes."""
        declared = getattr(self.module, which, None)
        found = declared(self.module.bound_axes(inputs)) if callable(declared) else None
        return None if found is None else float(found)


def loss_levels(case: Case) -> str:
    """Each loss has its chance value where all images look alike, and reaches its floor.

    Chance is looked for among inputs that tell nothing apart. The floor is looked for by descent
    on the inputs themselves, from several starts; none may go below it, and one has to reach it.
    """
    method = case.method()
    said = []
    for loss in _losses(case, method):
        for which, found in (("chance", _chance(loss)), ("floor", _floor(loss))):
            if found is not None:
                said.append(f"{loss.step.name} {which} {found:.6g}")
    if not said:
        names = dict.fromkeys(port[0] for port in case.plan.losses.values())
        uses = ", ".join(case.plan.step(name).declaration.use for name in names)
        raise InapplicableError(f"{uses} declares neither a floor nor a chance value")
    return ", ".join(said)


def _losses(case: Case, method: Method) -> Iterator[_Loss]:
    names = list(dict.fromkeys(port[0] for port in case.plan.losses.values()))
    with watched(method, names) as calls:
        case.forward(method, case.given())
    for name in names:
        step = case.plan.step(name)
        module = method.nodes[name]
        module.requires_grad_(requires_grad=False)
        values = zip(step.declaration.reads, calls[name].args, strict=True)
        inputs = {port: value.detach() for port, value in values if value is not None}
        yield _Loss(step, module, inputs)


def _narrow(loss: _Loss) -> _Loss:
    """The loss with rows of a few numbers, where it was built for no width."""
    ports = {name: loss.step.declaration.inputs[name].axes for name in loss.features}
    if any(loss.kind(name) == "label" for name in loss.inputs):
        return loss  # a label names one of the numbers
    fixed = asked_axes(type(loss.module))
    if any(axes[-1] in fixed or not axes[-1].isupper() for axes in ports.values()):
        return loss
    cut = {name: loss.inputs[name][..., :_WIDTH] for name in ports}
    for name in ports:
        if loss.kind(name) == "probs":
            cut[name] = cut[name] / cut[name].sum(-1, keepdim=True).clamp(min=1e-12)
    return _Loss(loss.step, loss.module, {**loss.inputs, **cut})


def _chance(loss: _Loss) -> float | None:
    """The declared chance value, after it was seen; None where none is declared."""
    level = loss.level("chance", loss.inputs)
    if level is None:
        return None
    found = [float(loss.value(_made(loss, rows))) for rows in (_equal, _nothing)]
    nearest = min(found, key=lambda value: abs(value - level))
    if not abs(nearest - level) <= _reach(level):
        raise BrokenError(
            f"{loss.step.name} declares chance at {level:.6g}, but where all images look alike it "
            f"is {nearest:.6g}",
            loss.step.name,
        )
    return level


def _floor(loss: _Loss) -> float | None:
    """The declared floor, after it was reached; None where none is declared.

    Rows of a few numbers can be uncorrelated, those of many as far apart as the corners of a
    simplex: a loss reaches its floor with one of them.
    """
    misses = []
    for form in (_narrow(loss), loss):
        level = form.level("floor", form.inputs)
        if level is None:
            return None
        lowest = _lowest(form, level)
        if lowest <= level + _reach(level):
            return level
        misses.append((lowest - level, level, lowest))
    _, level, lowest = min(misses)
    raise BrokenError(
        f"{loss.step.name} declares a floor of {level:.6g}, but no inputs were found below "
        f"{lowest:.6g}",
        loss.step.name,
    )


def _lowest(loss: _Loss, level: float) -> float:
    """The lowest value that was found, which is not below the floor."""
    lowest = math.inf
    for rows in (_agreeing, _uncorrelated, _corners, _certain):
        start = _made(loss, rows)
        lowest = min(lowest, float(loss.value(start)))
        if lowest > level + _reach(level):
            lowest = min(lowest, _descended(loss, start))
        if lowest < level - _reach(level):
            raise BrokenError(
                f"{loss.step.name} declares a floor of {level:.6g}, but goes down to {lowest:.6g}",
                loss.step.name,
            )
    return lowest


def _reach(level: float) -> float:
    return _CLOSE * max(1.0, abs(level))


def _descended(loss: _Loss, start: Inputs) -> float:
    """The lowest value on the way down from some inputs."""
    free = {n: v.clone().requires_grad_() for n, v in start.items() if _is_free(loss, n)}
    if not free:
        return math.inf
    descent = torch.optim.LBFGS(
        list(free.values()), max_iter=_SEARCHES, line_search_fn="strong_wolfe", tolerance_grad=1e-12
    )
    seen: list[float] = []

    def evaluate() -> Tensor:
        descent.zero_grad()
        value = loss.value({**start, **free})
        if value.requires_grad:
            value.backward()
        seen.append(float(value.detach()))
        return value

    descent.step(evaluate)
    return min((value for value in seen if math.isfinite(value)), default=math.inf)


def _is_free(loss: _Loss, name: str) -> bool:
    """Whether an input may have any values: distributions have to stay some."""
    return name in loss.features and loss.kind(name) != "probs"


# -- inputs to begin with: rows for `count` images, equal in every view and place ------------------

Rows = Callable[[int, int], Tensor]


def _made(loss: _Loss, rows: Rows) -> Inputs:
    """The inputs of a loss with these rows; what a memory holds points away from them."""
    made = {name: _counted(loss.kind(name), value) for name, value in loss.inputs.items()}
    for name in loss.features:
        like = loss.inputs[name]
        images = loss.has_images(name)
        each = rows(like.shape[1] if images else 1, like.shape[-1])
        if not images and rows is not _equal:
            each = -each
        if loss.kind(name) == "probs":
            each = each.softmax(-1)
        shape = [1, len(each), *[1] * (like.dim() - 3), like.shape[-1]]
        made[name] = each.view(shape).expand_as(like).contiguous()
    return made


def _counted(kind: str, value: Tensor) -> Tensor:
    """Every place counts, and all alike: masks hide them all, weights add up to 1."""
    if kind == "mask":
        return torch.ones_like(value)
    if kind == "weight":
        return torch.full_like(value, 1 / value[0].numel())
    return value


def _normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _equal(count: int, width: int) -> Tensor:
    return _normal(1, width).expand(count, width)


def _nothing(count: int, width: int) -> Tensor:
    return torch.zeros(count, width, dtype=torch.float64)


def _agreeing(count: int, width: int) -> Tensor:
    """Any rows, one in the same direction as another being that one."""
    return _normal(count, width)


def _uncorrelated(count: int, width: int) -> Tensor:
    """Columns without mean and correlation, of standard deviation 2."""
    if count <= width:
        return _agreeing(count, width)
    rows = _normal(count, width)
    basis: Tensor = torch.linalg.qr(rows - rows.mean(0))[0]
    return basis * 2 * math.sqrt(count - 1)


def _corners(count: int, width: int) -> Tensor:
    """The corners of a simplex, as far apart as they can be; of too many, the axes in turn."""
    rows = torch.eye(width, dtype=torch.float64)[torch.arange(count) % width]
    return rows - rows.mean(0)


def _certain(count: int, width: int) -> Tensor:
    """Sure of one of the numbers."""
    return _SURE * torch.eye(width, dtype=torch.float64)[torch.arange(count) % width]
