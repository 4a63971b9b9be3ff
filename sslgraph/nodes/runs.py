"""What the folder of a run gives to other graphs: its plan, and the part that some outputs need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslgraph.checks.references import DATA, Port, Wire
from sslgraph.command import command
from sslgraph.errors import GraphError, did_you_mean
from sslgraph.loading import load
from sslgraph.nodes.base import Node
from sslgraph.plan import Plan, Step, make_plan
from sslgraph.ports import BATCH, Out
from sslgraph.saved import GRAPH
from sslgraph.schedules import fault
from sslgraph.walk import inputs_of

_GIVEN = ("image", "index")
"""What of `batch` there is without labels."""
_FOLDER = "the folder of a run, such as runs/NAME-001"


@dataclass(frozen=True)
class RunPart:
    """The part of a run's graph that the outputs of this node need.

    Args:
        plan: The plan of the whole graph.
        wires: What is wanted, by the name of the output.
        outputs: The ports of this node.
        entries: Views of the run's graph, which the image takes the place of.
        steps: The steps that are left, in order.
    """

    plan: Plan
    wires: dict[str, Wire]
    outputs: dict[str, Out]
    entries: tuple[Port, ...]
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, run: str, fetch: list[str] | str) -> RunPart:
        """The part for these settings.

        Raises:
            PydanticCustomError: Something can't be had; the text is for the user.
        """
        plan = plan_of(run)
        further = [fetch] if isinstance(fetch, str) else fetch
        wires = {**plan.outputs, **{text: _fetched(plan, text) for text in further}}
        if not wires:
            raise fault(
                f"the graph of run {run} has no outputs", help="name what it should give in `fetch`"
            )
        outputs = {name: _output(plan, name, wire) for name, wire in wires.items()}
        if further:
            outputs[further[0]].main = True
        views = tuple(port for step in plan.steps for port in _views(plan, step))
        steps = tuple(plan.needed([wire.source for wire in wires.values()], views))
        _only_given(steps)
        return cls(plan, wires, outputs, views, steps)

    def sides(self, modules: Mapping[str, Node]) -> list[int]:
        """Pixels of the sides of the views that the part sees; none where no node makes views."""
        reads = [w.source for s in self.steps for ws in s.wires("read").values() for w in ws]
        seen = [port for port in self.entries if port in [*reads, *self._wanted]]
        return sorted({self._side(modules[port[0]], port) for port in seen})

    @property
    def _wanted(self) -> list[Port]:
        return [wire.source for wire in self.wires.values()]

    def _side(self, module: Node, view: Port) -> int:
        step = self.plan.step(view[0])
        canvas, channels = self.plan.canvas(), self.plan.graph.data.batch.channels
        with torch.device("cpu"):
            index = torch.zeros(1, 1, dtype=torch.int64)
            data = {
                (DATA, "image"): torch.zeros(1, 1, channels, canvas, canvas),
                (DATA, "index"): index,
            }
            made = module.eval()(*inputs_of(step, data, evaluating=True))
        names = list(step.declaration.outputs)
        image: Tensor = made if len(names) == 1 else made[names.index(view[1])]
        return image.shape[-1]


def plan_of(run: str) -> Plan:
    """The plan of a run's graph.

    Raises:
        PydanticCustomError: There is none; the text is for the user.
    """
    path = Path(run)
    if not path.is_dir():
        near = [str(entry) for entry in path.parent.glob("*") if (entry / GRAPH).is_file()]
        help = did_you_mean(run, near, show="runs") if near else ""
        raise fault(f"no folder {run}", expected=_FOLDER, help=help)
    graph = path / GRAPH
    if not graph.is_file():
        raise fault(f"{run} is no run: there is no {GRAPH} in it", expected=_FOLDER)
    state = graph.stat()
    return _planned(graph.resolve(), state.st_mtime_ns, state.st_size)


_reading: list[Path] = []
"""Graphs that are being read, each because of the one before it."""


@lru_cache(maxsize=16)
def _planned(path: Path, changed: int, size: int) -> Plan:
    """The plan of a file, read again when it was changed."""
    if path in _reading:
        raise fault(f"{path} freezes a run that freezes it, so neither can be built")
    _reading.append(path)
    try:
        return make_plan(load(path))
    except GraphError as error:
        raise fault(
            f"the graph of this run has errors: {error.problems[0].title}",
            help=f"see them all: {command()} check {path}",
        ) from None
    finally:
        _reading.pop()


def _fetched(plan: Plan, text: str) -> Wire:
    if text in plan.outputs:
        raise fault(f"'{text}' is an output of the run anyway", help="drop it from `fetch`")
    try:
        wire = plan.wire(text)
    except GraphError as error:
        problem = error.problems[0]
        help = ", ".join(part for part in (problem.under, problem.help) if part)
        raise fault(f"the run's graph gives no '{text}': {problem.title}", help=help) from None
    if wire.reference.sliced:
        raise fault(
            f"'{text}' takes some views, but here there is one", help="leave the number out"
        )
    return wire


def _output(plan: Plan, name: str, wire: Wire) -> Out:
    """A port of the run's graph as one of this node, which is declared for one view."""
    node, port = wire.source
    if node == DATA:
        kind, written = BATCH[port]
        made = Out(kind, written)
    else:
        step = plan.step(node)
        axes = [
            _axis(axis, step.config, plan.steps.index(step)) for axis in _without_views(step, port)
        ]
        made = Out(plan.kinds[wire.source], " ".join(axes))
    if made.axes[:1] not in (("B",), ("...",)):
        raise fault(
            f"'{name}' is nothing that is made of each image",
            expected=f"an output with a row for each sample, not {made}",
        )
    made.name = name
    return made


def _without_views(step: Step, port: str) -> tuple[str, ...]:
    axes = step.declaration.outputs[port].on_the_wire()
    return axes if axes[:1] == ("...",) else axes[1:]


def _axis(axis: str, config: Any, place: int) -> str:
    """An axis apart from those of other nodes; values of settings become numbers."""
    if axis in ("B", "...") or axis.isdigit():
        return axis
    return str(getattr(config, axis)) if axis[0].islower() else f"{axis.rstrip(chr(39))}{place}"


def _views(plan: Plan, step: Step) -> list[Port]:
    """The views that a step makes of the images of the data."""
    sources = {w.source for wires in step.wires("read").values() for w in wires}
    if not step.declaration.draws or (DATA, "image") not in sources:
        return []
    ports = [(step.name, port) for port in step.declaration.outputs]
    return [port for port in ports if plan.kinds.get(port) == "image"]


def _only_given(steps: tuple[Step, ...]) -> None:
    for step in steps:
        for wires in step.wires("read").values():
            for wire in wires:
                if wire.source[0] == DATA and wire.source[1] not in _GIVEN:
                    raise fault(
                        f"{step.name} of the run's graph reads {wire.reference.text}",
                        expected="outputs that are made of images alone",
                    )
