"""What a mask hides does not reach what an encoder gives."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sslgraph.method import Method
from sslgraph.plan import Step
from sslgraph.proving.case import Case
from sslgraph.proving.compare import apart
from sslgraph.proving.given import Call, watched
from sslgraph.proving.result import BrokenError, InapplicableError

_ROUNDING = 1e-9


def masked_places(case: Case) -> str:
    """Changing the pixels of hidden places changes nothing that a masked encoder gives.

    Of a mask that drops places and of one that puts a token there alike; the pixels of visible
    places do change it.
    """
    ports = {step.name: port for step in case.plan.steps if (port := _masked(step))}
    if not ports:
        raise InapplicableError("no node takes an image and a mask")
    method = case.method()
    with watched(method, ports) as calls:
        case.forward(method, case.given())
    said = []
    for step in case.plan.steps:
        if step.name in ports:
            hidden = _unseen(method, step, calls[step.name], ports[step.name])
            said.append(f"{step.name} ({hidden:.0%} of its places)")
    return f"no output moves with hidden pixels: {', '.join(said)}"


def _masked(step: Step) -> tuple[str, str] | None:
    """The image and the mask that a step reads."""
    if step.declaration.draws:
        return None
    plugged = step.wires("read")
    kinds = {name: step.declaration.inputs[name].kind.allowed for name in plugged}
    image = next((name for name, kind in kinds.items() if kind == ("image",)), None)
    mask = next((name for name, kind in kinds.items() if kind == ("mask",)), None)
    return (image, mask) if image and mask else None


def _unseen(method: Method, step: Step, call: Call, ports: tuple[str, str]) -> float:
    """See that hidden pixels are not seen; the share that is hidden."""
    names = list(step.declaration.reads)
    given = dict(zip(names, call.args, strict=True))
    image, mask = (given[port] for port in ports)
    assert image is not None
    assert mask is not None
    hidden = _pixels(step, image, mask)
    base = [value.detach() for value in call.outputs.values()]
    for pixels, seen in ((hidden, False), (~hidden, True)):
        if not pixels.any():
            continue
        given[ports[0]] = torch.where(pixels, image + 1 + image.square(), image)
        with torch.no_grad():
            result = method.nodes[step.name](*[given[name] for name in names])
        moved = list(_moved(call, base, result))
        if seen and not moved:
            raise BrokenError(f"{step.name} does not see the pixels of visible places", step.name)
        if moved and not seen:
            port, difference = moved[0]
            raise BrokenError(
                f"pixels of places that {ports[1]} hides change {step.name}.{port} by "
                f"{difference:.1e}",
                step.name,
            )
    return float(hidden.double().mean())


def _moved(call: Call, base: list[Tensor], result: object) -> Iterator[tuple[str, float]]:
    """The outputs that changed, and by how much."""
    parts = [result] if isinstance(result, Tensor) else list(result)  # type: ignore[call-overload]
    for port, before, after in zip(call.outputs, base, parts, strict=True):
        difference = apart(before, after)
        if difference > _ROUNDING:
            yield port, difference


def _pixels(step: Step, image: Tensor, mask: Tensor) -> Tensor:
    """Which pixels are hidden, V B 1 H W; places are squares in raster order."""
    height, width = image.shape[-2:]
    side = math.sqrt(height * width / mask.shape[-1])
    rows, columns = round(height / side), round(width / side)
    if rows * columns != mask.shape[-1] or height % rows or width % columns:
        raise InapplicableError(
            f"the {mask.shape[-1]} places of {step.name}'s mask are no squares of {height} x "
            f"{width} pixels"
        )
    grid = mask.unflatten(-1, (rows, columns))
    pixels: Tensor = grid.repeat_interleave(height // rows, -2).repeat_interleave(
        width // columns, -1
    )
    return pixels.unsqueeze(2).expand(*image.shape[:2], 1, height, width)
