"""Source code of a plan: straight-line PyTorch for any feed and fetch, which one can read.

The emitted function calls modules (so hooks work), frees values after their last use and holds
nothing of the YAML but validated identifiers. Under `torch.compile` it is split into regions: nodes
that draw run outside, what lies between them is compiled.
"""

from __future__ import annotations

import builtins
import keyword
import linecache
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch

from sslgraph.checks.references import DATA, Port, Wire
from sslgraph.plan import Plan, Step
from sslgraph.ports import BATCH
from sslgraph.walk import joined

_TAKEN = {"self", "n", "torch", "joined", "forward"}


@dataclass(frozen=True)
class Emitted:
    """Source of a plan.

    Args:
        code: The text.
        feed: Ports that are its arguments, in order.
        lines: Line number -> the step that the line runs.
        names: The local name of each port.
        compiled: Names of the functions to compile.
    """

    code: str
    feed: tuple[Port, ...]
    lines: Mapping[int, Step]
    names: Mapping[Port, str]
    compiled: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """A name for tracebacks that is equal for equal source."""
        return f"<sslgraph {sha256(self.code.encode()).hexdigest()[:12]}>"

    def function(self, compiler: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
        """The function, with its regions compiled by `compiler` where one is given."""
        linecache.cache[self.filename] = (
            len(self.code),
            None,
            self.code.splitlines(True),
            self.filename,
        )
        space: dict[str, Any] = {"torch": torch, "joined": joined}
        exec(compile(self.code, self.filename, "exec"), space)
        if compiler:
            space.update({name: compiler(space[name]) for name in self.compiled})
        function: Callable[..., Any] = space["forward"]
        return function


@dataclass
class _Writer:
    """Lines of code, with the step that each one runs."""

    lines: list[str] = field(default_factory=list)
    steps: dict[int, Step] = field(default_factory=dict)

    def add(self, line: str, step: Step | None = None) -> None:
        self.lines.append(line)
        if step:
            self.steps[len(self.lines)] = step


def emit(
    plan: Plan,
    feed: Iterable[Port],
    fetch: Sequence[Wire],
    *,
    evaluating: bool = False,
    writing: bool = False,
    regions: bool = False,
) -> Emitted:
    """Write the source that computes `fetch` from `feed`.

    Args:
        plan: The plan.
        feed: Ports that are given; ports of the data that are needed are added.
        fetch: What is wanted; slices of views are taken at the end.
        evaluating: Whether slices of views mean the one view of evaluation.
        writing: Whether nodes that write once a batch do so at the end.
        regions: Whether what can be compiled stands in functions of its own.
    """
    given = tuple(dict.fromkeys(feed))
    writers = [s for s in plan.steps if s.declaration.writes == "batch"] if writing else []
    stored = [wire for step in writers for wires in step.wires("write").values() for wire in wires]
    wanted = [wire.source for wire in [*fetch, *stored]]
    steps = plan.needed(wanted, given)
    steps = _outside_first(steps) if regions else steps
    used = {
        wire.source for step in steps for wires in step.wires("read").values() for wire in wires
    }
    needed = {*used, *wanted}
    data = [(DATA, name) for name in BATCH if (DATA, name) in needed]
    arguments = tuple(dict.fromkeys([*(port for port in given if port in needed), *data]))
    return _Emission(plan, arguments, list(fetch), steps, writers, evaluating, regions).emitted()


def _is_outside(step: Step) -> bool:
    """Whether a node stays out of compiled regions.

    It draws, keeps a memory of batches, or computes its blocks again in backward.
    """
    again: bool = getattr(step.spec.train, "recompute", False)
    return step.declaration.draws or step.declaration.writes == "batch" or again


def _outside_first(steps: list[Step]) -> list[Step]:
    """The same steps, those outside regions as early as their inputs allow: so regions are few."""
    done: set[str] = set()
    waiting, ordered = list(steps), []
    names = {step.name for step in steps}
    while waiting:
        ready = [s for s in waiting if _sources(s) & names <= done]
        chosen = next((s for s in ready if _is_outside(s)), ready[0])
        waiting.remove(chosen)
        done.add(chosen.name)
        ordered.append(chosen)
    return ordered


def _sources(step: Step) -> set[str]:
    return {wire.source[0] for wires in step.wires("read").values() for wire in wires}


@dataclass
class _Emission:
    plan: Plan
    arguments: tuple[Port, ...]
    fetch: list[Wire]
    steps: list[Step]
    writers: list[Step]
    evaluating: bool
    regions: bool

    def __post_init__(self) -> None:
        self.names: dict[Port, str] = {}
        ports = [*self.arguments]
        for step in self.steps:
            ports += [(step.name, port) for port in step.declaration.outputs]
        for port in ports:
            self.names.setdefault(port, self._name(port))
        self.kept = {wire.source for wire in self.fetch}
        self.kept |= {
            w.source for s in self.writers for ws in s.wires("write").values() for w in ws
        }

    def _name(self, port: Port) -> str:
        """A local name for a port: the node's, with the port's where it has several."""
        node, output = port
        if node == DATA:
            name = f"{DATA}_{output}"
        else:
            single = len(self.plan.step(node).declaration.outputs) == 1
            name = node if single else f"{node}_{output.replace('.', '_')}"
        taken = {*self.names.values(), *_TAKEN}
        while name in taken or keyword.iskeyword(name) or hasattr(builtins, name):
            name += "_"
        return name

    def emitted(self) -> Emitted:
        writer = _Writer()
        body = self._body()
        compiled: list[str] = []
        if self.regions:
            body = self._split(body, writer, compiled)
        arguments = ", ".join(["self", *(self.names[port] for port in self.arguments)])
        writer.add(f"def forward({arguments}):")
        writer.add("    n = self.nodes._modules")
        for line, step in body:
            writer.add(f"    {line}", step)
        returned = ", ".join(self._taken((wire,)) for wire in self.fetch)
        writer.add(f"    return ({returned}{',' if len(self.fetch) == 1 else ''})")
        code = "\n".join(writer.lines) + "\n"
        return Emitted(code, self.arguments, writer.steps, self.names, tuple(compiled))

    def _body(self) -> list[tuple[str, Step | None]]:
        last = self._last_uses()
        lines: list[tuple[str, Step | None]] = []
        for place, step in enumerate(self.steps):
            lines.append((self._call(step), step))
            free = [self.names[port] for port, use in last.items() if use == place]
            free += ["_"] * any(name == "_" for name in self._results(step))
            if free and not self.regions:
                lines.append((f"del {', '.join(free)}", None))
        if self.writers:
            lines.append(("with torch.no_grad():", None))
        for step in self.writers:
            stored = ", ".join(
                f"{port}={self._taken(wires)}" for port, wires in step.wires("write").items()
            )
            lines.append((f'    n["{step.name}"].write({stored})', step))
        return lines

    def _last_uses(self) -> dict[Port, int]:
        """Port -> the step after which nobody needs it; ports that are returned never leave."""
        last: dict[Port, int] = {}
        for place, step in enumerate(self.steps):
            for wires in step.wires("read").values():
                last.update({wire.source: place for wire in wires})
        return {port: place for port, place in last.items() if port not in self.kept}

    def _call(self, step: Step) -> str:
        plugged = step.wires("read")
        given = [
            self._taken(plugged[name]) if name in plugged else "None"
            for name in step.declaration.reads
        ]
        return f'{", ".join(self._results(step))} = n["{step.name}"]({", ".join(given)})'

    def _results(self, step: Step) -> list[str]:
        """Names for what a step returns; `_` for what nobody needs or what was fed instead."""
        read = {wire.source for s in self.steps for ws in s.wires("read").values() for wire in ws}
        wanted = (read | self.kept) - set(self.arguments)
        outputs = [(step.name, port) for port in step.declaration.outputs]
        return [self.names[port] if port in wanted else "_" for port in outputs]

    def _taken(self, wires: tuple[Wire, ...]) -> str:
        if self.evaluating and (len(wires) > 1 or wires[0].reference.sliced):
            parts = [
                f"({self.names[w.source]}, {w.reference.start}, {w.reference.stop})" for w in wires
            ]
            return f"joined({', '.join(parts)})"
        parts = [self._slice(wire) for wire in wires]
        return parts[0] if len(parts) == 1 else f"torch.cat([{', '.join(parts)}])"

    def _slice(self, wire: Wire) -> str:
        name, reference = self.names[wire.source], wire.reference
        if not reference.sliced:
            return name
        first = "" if reference.start is None else reference.start
        return f"{name}[{first}:{'' if reference.stop is None else reference.stop}]"

    def _split(
        self, body: list[tuple[str, Step | None]], writer: _Writer, compiled: list[str]
    ) -> list[tuple[str, Step | None]]:
        """Move runs of steps that can be compiled into functions of their own."""
        outer: list[tuple[str, Step | None]] = []
        run: list[tuple[str, Step | None]] = []
        for line, step in [*body, ("", None)]:
            if step is not None and not _is_outside(step):
                run.append((line, step))
                continue
            if run:
                outer.append(self._region(run, writer, compiled))
                run = []
            if line:
                outer.append((line, step))
        return outer

    def _region(
        self, run: list[tuple[str, Step | None]], writer: _Writer, compiled: list[str]
    ) -> tuple[str, None]:
        inside = [step for _, step in run if step]
        names = {step.name for step in inside}
        reads = [w.source for s in inside for ws in s.wires("read").values() for w in ws]
        taken = [self.names[port] for port in dict.fromkeys(reads) if port[0] not in names]
        later = self.kept | {
            wire.source
            for step in self.steps
            if step.name not in names
            for wires in step.wires("read").values()
            for wire in wires
        }
        made = [(step.name, port) for step in inside for port in step.declaration.outputs]
        given = [self.names[port] for port in made if port in later]
        name = f"_region_{len(compiled)}"  # no node begins with _
        compiled.append(name)
        writer.add(f"def {name}({', '.join(['self', *taken])}):")
        writer.add("    n = self.nodes._modules")
        for line, step in run:
            writer.add(f"    {line}", step)
        writer.add(f"    return ({', '.join(given)},)")
        writer.add("")
        return f"({', '.join(given)},) = {name}({', '.join(['self', *taken])})", None
