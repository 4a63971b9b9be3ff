"""A compiled method: one plain torch module with the nodes, the clock and the emitted forward."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sslgraph.checking import report
from sslgraph.checks.references import DATA, Port, Wire
from sslgraph.clock import Clock, Hand
from sslgraph.emit import Emitted, emit
from sslgraph.errors import GraphError, did_you_mean, errors_of
from sslgraph.make import make_modules
from sslgraph.nodes.base import Node
from sslgraph.nodes.mapping import Nodes
from sslgraph.nodes.numbers import Numbers
from sslgraph.notes import note_failure
from sslgraph.plan import Plan, make_plan
from sslgraph.ports import BATCH
from sslgraph.schedules import Schedule
from sslgraph.spec import Graph
from sslgraph.walk import Values

Batch = Mapping[str, Tensor]


_MISSING = {
    "sample": "; give the number of each image in the data set, from 0, as int64 B: memory of "
    "images is kept under it, and batch.index, the position in the run, differs in every epoch"
}
"""What to do about a part of the batch that is not there."""


class StepOutput(NamedTuple):
    """What a training forward gives.

    Args:
        loss: The weighted sum, 0-d.
        terms: Each loss of `minimize` by name, without its weight, 0-d.
    """

    loss: Tensor
    terms: dict[str, Tensor]


class Method(nn.Module):
    """A method as a module.

    `method(batch)` is the training forward; `method.outputs(batch)` the evaluation that probes,
    export and pictures use; `method.run(feed, fetch)` any part. After `optimizer.step()` comes
    `after_step()`. Made by `sslgraph.compile`.
    """

    def __init__(self, graph: Graph, plan: Plan, modules: Mapping[str, Node], seed: int) -> None:
        super().__init__()
        self.graph = graph
        self.seed = seed
        self.plan = plan
        self.nodes = Nodes(modules)
        self.clock = Clock()
        self.weights = Numbers()
        for name, weight in graph.minimize.items():
            if isinstance(weight, Schedule):
                self.weights.register_number(name + "_weight", 0.0)
        self._losses = self._loss_wires()
        self._emitted: dict[Any, tuple[Callable[..., Any], tuple[Port, ...]]] = {}
        self._sources: dict[str, Emitted] = {}
        self._compiler: Callable[[Any], Any] | None = None
        self._pending = 0
        self._backward_seen = False
        self._warned = False
        self._turned: tuple[Any, ...] | None = None

    # -- training ---------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> StepOutput:
        """Compute the losses of a batch.

        Args:
            batch: What the graph reads of the data: `image` B C H W, uint8 or float in [0, 1];
                `index` B, the positions of the samples in the run (the clock counts where it is
                left out); `sample` B, the numbers of the images in the data set, which nothing
                can stand in for; `label` B.

        Raises:
            GraphError: A schedule needs a length of the run that `clock.set` was not given.
            ValueError: The batch lacks something, or it has another shape.
        """
        self._before_forward()
        values = self._call({}, self._losses, batch, writing=self.training)
        terms = dict(zip(self.plan.losses, values, strict=True))
        loss = self._weighted(terms)
        self._watch_backward(loss)
        return StepOutput(loss, terms)

    def after_step(self) -> None:
        """Do what follows an optimizer step: writes and commits of steps and epochs, the clock."""
        for _, node in self.nodes.items():
            node.constrain()
        self._write("step")
        self.clock.advance()
        if self.clock.epoch_ended:
            self._write("epoch")
        self._pending, self._backward_seen = 0, False

    def skip_step(self) -> None:
        """Give up an optimizer step after its forward: no writes, the clock stands still."""
        self._pending, self._backward_seen = 0, False

    def compile(self, *args: Any, **keywords: Any) -> None:
        """Compile what lies between nodes that draw, each region by `torch.compile`.

        Args:
            *args: Passed on to `torch.compile`.
            **keywords: Passed on to `torch.compile`, such as ``fullgraph=True``.
        """
        self._compiler = lambda function: torch.compile(function, *args, **keywords)
        self._emitted.clear()

    # -- evaluation and parts ---------------------------------------------------------------------

    @torch.no_grad()
    def outputs(self, batch: Batch, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Compute `outputs` in evaluation: one clean view, running statistics, no writes.

        Args:
            batch: At least `image`.
            names: Which of them; all if None.

        Returns:
            By name, view axis first with V = 1.
        """
        wanted = list(self.plan.outputs if names is None else names)
        for name in wanted:
            if name not in self.plan.outputs:
                hint = did_you_mean(name, self.plan.outputs, show="outputs")
                raise ValueError(f"the graph has no output '{name}': {hint}")
        with self.evaluating():
            values = self._call({}, [self.plan.outputs[name] for name in wanted], batch)
        return dict(zip(wanted, values, strict=True))

    def run(
        self, feed: Mapping[str, Tensor], fetch: Iterable[str], batch: Batch | None = None
    ) -> dict[str, Tensor]:
        """Run any part of the graph, from any ports to any ports.

        Args:
            feed: Values by reference, such as ``{"views": v}``, with the view axis first; or
                ``batch.image`` and the like as the data gives them.
            fetch: References that are wanted.
            batch: What else the data gives.

        Returns:
            Values by the text of the reference.

        Raises:
            GraphError: A reference means nothing.
            ValueError: Something that is needed was not fed.
        """
        wanted = list(fetch)
        given: Values = {}
        data = dict(batch or {})
        for text, value in feed.items():
            wire = self.plan.wire(text)
            if wire.reference.sliced:
                raise ValueError(f"feed['{text}']: feed a whole port, not some of its views")
            if wire.source[0] == DATA:
                data[wire.source[1]] = value
            else:
                given[wire.source] = value
        if self.training:
            self._turn()
        values = self._call(given, [self.plan.wire(text) for text in wanted], data)
        return dict(zip(wanted, values, strict=True))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block every module is in evaluation; afterwards each is what it was."""
        before = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, mode in before:
                module.training = mode

    @property
    def code(self) -> str:
        """The source of the training forward."""
        regions = self._compiler is not None
        return emit(self.plan, (), self._losses, writing=True, regions=regions).code

    # -- parts that others use --------------------------------------------------------------------

    def train(self, mode: bool = True) -> Method:
        """Set the training mode; nodes that are not trained stay in evaluation."""
        super().train(mode)
        for step in self.plan.steps:
            if not step.trained and not step.declaration.draws:  # views and masks have no weights
                self.nodes[step.name].eval()
        return self

    def parameters_by_node(self) -> dict[str, dict[str, nn.Parameter]]:
        """The trained parameters of each node that has some."""
        found = {
            name: {key: p for key, p in node.named_parameters() if p.requires_grad}
            for name, node in self.nodes.items()
        }
        return {name: parameters for name, parameters in found.items() if parameters}

    def hands(self) -> list[Hand]:
        """Every number that follows the run, with its schedule and its place."""
        span = self.graph.document.span
        found = []
        for name, node in self.nodes.items():
            for inner, part in node.timed().items():
                for key, schedule in part.schedules.items():
                    place = span("nodes", name, key)
                    called = ".".join(filter(None, (name, inner, key)))
                    found.append(Hand(schedule, getattr(part, key), place, called))
        for name, weight in self.graph.minimize.items():
            if isinstance(weight, Schedule):
                number = getattr(self.weights, name + "_weight")
                found.append(Hand(weight, number, span("minimize", name), f"minimize.{name}"))
        return found

    # -- machinery --------------------------------------------------------------------------------

    def _loss_wires(self) -> list[Wire]:
        """The losses as wires, found once: a reference is text, and a step has none to parse."""
        return [self.plan.wire(name) for name in self.plan.losses]

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        total: Tensor | None = None
        for name, term in terms.items():
            weight = self.graph.minimize[name]
            if isinstance(weight, Schedule):
                part = getattr(self.weights, name + "_weight") * term
            else:
                part = term if weight == 1 else weight * term
            total = part if total is None else total + part
        assert total is not None  # a graph without losses is not compiled
        return total

    def _call(
        self, given: Values, fetch: list[Wire], batch: Batch, *, writing: bool = False
    ) -> tuple[Tensor, ...]:
        evaluating = not self.training
        key = (
            tuple(given),
            tuple((w.source, w.reference.text) for w in fetch),
            evaluating,
            writing,
        )
        if key not in self._emitted:
            regions = self._compiler is not None
            source = emit(
                self.plan, given, fetch, evaluating=evaluating, writing=writing, regions=regions
            )
            self._sources[source.filename] = source
            self._emitted[key] = source.function(self._compiler), source.feed
        function, ports = self._emitted[key]
        arguments = [
            given[p] if p in given else self._datum(p[1], batch, writing=writing) for p in ports
        ]
        try:
            values: tuple[Tensor, ...] = function(self, *arguments)
        except Exception as failure:
            note_failure(failure, self._sources)
            raise
        return values

    def _datum(self, name: str, batch: Batch, *, writing: bool) -> Tensor:
        """One part of the batch as a wire carries it: view axis first, images as float."""
        if name not in batch and name == "index" and batch:
            count = next(iter(batch.values())).shape[0]
            return self.clock.positions(count, count_on=writing).unsqueeze(0)
        if name not in batch:
            raise ValueError(
                f"{self.graph.name} reads batch.{name}, which the batch does not have: "
                f"it has {', '.join(batch) or 'nothing'}{_MISSING.get(name, '')}"
            )
        value = batch[name]
        axes = BATCH[name][1].split()
        if value.dim() != len(axes):
            raise ValueError(
                f"batch.{name} is {' '.join(axes)}, got a tensor of shape {tuple(value.shape)}"
            )
        if name == "image":
            channels = self.graph.data.batch.channels
            if value.shape[1] != channels:
                raise ValueError(
                    f"{self.graph.name} is made for images of {channels} channels, got "
                    f"{value.shape[1]}: set data.batch.channels={value.shape[1]}"
                )
            value = value if value.is_floating_point() else value.float() / 255
        return value.unsqueeze(0)

    @torch.no_grad()
    def _write(self, moment: str) -> None:
        for step in self.plan.steps:
            node: Any = self.nodes[step.name]
            if step.declaration.writes == moment:
                node.write()
            if step.declaration.commits == moment:
                node.commit()

    def _before_forward(self) -> None:
        if not self.training:
            return
        self._turn()
        if self._backward_seen and self._pending >= self.clock.accumulate and not self._warned:
            self._warned = True
            warnings.warn(
                "a second training forward after a backward without method.after_step(): "
                "schedules, ema copies and the clock stand still; call it after each "
                "optimizer.step(), or say "
                "method.clock.set(accumulate=...)",
                stacklevel=5,  # past forward, torch's two call methods, to the caller
            )
        self._pending += 1

    def _turn(self) -> None:
        """Fill scheduled numbers if the clock has moved since."""
        clock = self.clock
        state = (clock.now, clock.total_steps, clock.steps_per_epoch)
        if state != self._turned:
            by_epoch = [
                step
                for step in self.plan.steps
                if "epoch" in (step.declaration.writes, step.declaration.commits)
            ]
            clock.turn(self.hands(), by_epoch)
            self._turned = state

    def _watch_backward(self, loss: Tensor) -> None:
        if self.training and loss.requires_grad:
            loss.register_hook(self._saw_backward)

    def _saw_backward(self, grad: Tensor) -> None:
        self._backward_seen = True

    def _apply(self, *args: Any, **keywords: Any) -> Method:
        self._turned = None
        super()._apply(*args, **keywords)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.update(_emitted={}, _sources={}, _compiler=None, _turned=None, plan=None, _losses=[])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.plan = make_plan(self.graph)
        self._losses = self._loss_wires()


def compile_graph(graph: Graph, *, seed: int = 0) -> Method:
    """Compile a graph into one module.

    Args:
        graph: The graph.
        seed: Keys initial weights and every random draw.

    Raises:
        GraphError: The graph has errors; all problems are in it.
    """
    found = report(graph)
    wrong = errors_of(found.problems)
    if wrong or found.plan is None or found.sizes is None:
        raise GraphError(tuple(wrong))
    modules = make_modules(found.plan, seed, found.sizes.axes)
    return Method(graph, found.plan, modules, seed).train()
