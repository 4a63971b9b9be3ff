"""What a proof feeds in the place of images: views at the outputs of the nodes that make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sslgraph.check_sizes import META_BATCH, TEXT_LENGTH
from sslgraph.checks.references import DATA, Port
from sslgraph.method import Method
from sslgraph.plan import Plan
from sslgraph.ports import BATCH

LABELS = 2  # every classifier has as many classes
WORDS = 3
EPOCH = 8  # batches of the tiny data set, after which numbers of images begin again


@dataclass(frozen=True)
class Given:
    """One batch.

    Args:
        views: Values of ports in the place of what their nodes would make, V B ...
        data: What the data gives, B ...
    """

    views: Mapping[Port, Tensor]
    data: Mapping[str, Tensor]

    def rows(self, places: Tensor | slice) -> Given:
        """Some of its images, in this order."""
        return Given(
            {port: value[:, places] for port, value in self.views.items()},
            {name: value[places] for name, value in self.data.items()},
        )

    def halves(self) -> tuple[Given, Given]:
        """Its first and its second half."""
        middle = len(next(iter(self.data.values()))) // 2
        return self.rows(slice(0, middle)), self.rows(slice(middle, None))

    def to(self, dtype: torch.dtype) -> Given:
        """The same in another precision."""

        def cast(values: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
            return {k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()}

        return Given(cast(self.views), cast(self.data))

    def fed(self, more: Mapping[Port, Tensor]) -> Given:
        """The same with values of more ports."""
        return replace(self, views={**self.views, **more})


def entries(plan: Plan) -> list[Port]:
    """The ports at which views begin: those of nodes that draw them from the data's images."""
    found = []
    for step in plan.steps:
        sources = {w.source for wires in step.wires("read").values() for w in wires}
        if step.declaration.draws and (DATA, "image") in sources:
            ports = [(step.name, port) for port in step.declaration.outputs]
            found += [port for port in ports if plan.kinds.get(port) == "image"]
    return found


def make_given(
    plan: Plan, shapes: Mapping[Port, tuple[int, ...]], batch: int, number: int
) -> Given:
    """Batch `number` of a tiny data set: coloured patches and noise as views, float64.

    Args:
        plan: The plan.
        shapes: Shape of each port, with `META_BATCH` images.
        batch: Number of images.
        number: Which batch; its images have positions of their own.
    """
    generator = torch.Generator().manual_seed(1000 + number)
    views = {}
    for port in entries(plan):
        count, images, *rest = shapes[port]
        assert images == META_BATCH
        views[port] = _pictures((count, batch, *rest), generator)
    side = plan.canvas()
    image = torch.rand(
        batch,
        plan.graph.data.batch.channels,
        side,
        side,
        generator=generator,
        dtype=torch.float64,
    )
    position = torch.arange(batch) + number * batch
    made = {
        "image": image,
        "label": torch.arange(batch) % LABELS,
        "text": torch.randint(WORDS, (batch, TEXT_LENGTH), generator=generator),
    }
    for name, (kind, _) in BATCH.items():
        if kind == "index":  # the position in the run goes on; other numbers are of the data set
            made[name] = position if name == "index" else position % (EPOCH * batch)
    assert set(made) == set(BATCH)
    return Given(views, made)


def _pictures(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise over large patches of colour, since noise alone has one mean for all images."""
    coarse = torch.randn(math.prod(shape[:2]), shape[2], 4, 4, generator=generator)
    patches = functional.interpolate(coarse, shape[-2:], mode="nearest").view(shape)
    return patches.double() + torch.randn(shape, generator=generator, dtype=torch.float64) / 2


@contextmanager
def fed(method: Method, values: Mapping[Port, Tensor]) -> Iterator[None]:
    """Within it these ports have these values, whatever their nodes would compute."""
    touched = []
    for name in dict.fromkeys(node for node, _ in values):
        module = method.nodes[name]
        names = list(module.declaration.outputs)
        own = {at: values[name, port] for at, port in enumerate(names) if (name, port) in values}
        touched.append(module)
        module.forward = _instead(module, module.forward, own, len(names))
    try:
        yield
    finally:
        for module in touched:
            del module.forward


def _instead(
    module: Any, forward: Callable[..., Any], own: Mapping[int, Tensor], count: int
) -> Callable[..., Any]:
    """A forward that gives some values of its own; the others are computed."""

    def call(*args: Any, **keywords: Any) -> Any:
        made: Any = [None] * count
        if len(own) < count:
            made = forward(*args, **keywords)
        parts = [own.get(at, part) for at, part in enumerate(made)]
        return parts[0] if count == 1 else module.Outputs(*parts)

    return call


@dataclass
class Call:
    """One call of a node.

    Args:
        args: Its inputs in declared order, None where unplugged.
        outputs: Its outputs by name, as they were handed out.
        kept: What they were then.
    """

    args: tuple[Tensor | None, ...]
    outputs: dict[str, Tensor]
    kept: dict[str, Tensor]


@contextmanager
def watched(method: Method, names: Iterable[str]) -> Iterator[dict[str, Call]]:
    """Within it the calls of these nodes are written down, but for those by other nodes.

    A node that repeats others may call their modules, on other inputs.
    """
    calls: dict[str, Call] = {}
    wanted, active = set(names), list[str]()
    handles = []

    def watch(name: str) -> None:
        def enter(module: Any, args: tuple[Any, ...]) -> None:
            active.append(name)

        def leave(module: Any, args: tuple[Any, ...], result: Any) -> None:
            active.pop()
            if name in wanted and not active:
                calls[name] = _written_down(module, args, result)

        handles.append(method.nodes[name].register_forward_pre_hook(enter))
        handles.append(method.nodes[name].register_forward_hook(leave))

    for name in method.nodes:
        watch(name)
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _written_down(module: Any, args: tuple[Any, ...], result: Any) -> Call:
    ports = list(module.declaration.outputs)
    parts = (result,) if len(ports) == 1 else tuple(result)
    outputs = dict(zip(ports, parts, strict=True))
    return Call(args, outputs, {port: value.detach().clone() for port, value in outputs.items()})
