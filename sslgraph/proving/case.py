"""A graph under proof: methods made of it, batches for it, and how results are compared.

Weights, views and everything else are float64. Dropout and stochastic depth are switched off, since
what they drop differs from call to call by design; what else a method draws is keyed by the
position of a sample, so equal batches have equal draws. Every weight is moved a little away from
where it starts, so that no zero (a residual branch that begins at nothing, a bias) and no equality
(a copy that begins as its original) hides a wrong wire.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from timm.layers.drop import DropPath
from timm.layers.patch_dropout import PatchDropout
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from sslgraph.check_sizes import META_BATCH, Sizes
from sslgraph.checking import Report, report
from sslgraph.errors import GraphError, errors_of
from sslgraph.make import make_modules
from sslgraph.method import Method, StepOutput
from sslgraph.nodes.base import Node
from sslgraph.nodes.batch_norm import BatchNorm
from sslgraph.plan import Plan, Step
from sslgraph.proving.compare import descend, gradients
from sslgraph.proving.given import EPOCH, Given, fed, make_given
from sslgraph.proving.pool import OnRanks
from sslgraph.proving.result import ProofError
from sslgraph.proving.smaller import remedies
from sslgraph.proving.work import Work
from sslgraph.spec import Graph

STEPS = 100 * EPOCH
_IMAGES = 8
_MOST_FLOPS = 8e9  # of a forward and backward pass: a second or two on a core
_NUDGE = 0.02


@dataclass
class Case:
    """One graph under proof.

    Args:
        graph: The graph, with a batch as small as it can be.
        plan: Its plan.
        sizes: What the meta run found.
        batch: Images of a batch.
        on_ranks: Runs functions in two processes; None to start some where they are needed.
    """

    graph: Graph
    plan: Plan
    sizes: Sizes
    batch: int
    on_ranks: OnRanks | None = None
    _given: dict[int, Given] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, on_ranks: OnRanks | None = None) -> Case:
        """The case of a graph.

        Args:
            graph: The graph.
            on_ranks: Runs functions in two processes.

        Raises:
            GraphError: The graph has errors.
            ProofError: It is too large for a CPU.
        """
        small, found, flops = _built(graph)
        if flops > _MOST_FLOPS:
            raise ProofError(_too_large(graph, flops))
        assert found.plan is not None
        assert found.sizes is not None
        return cls(small, found.plan, found.sizes, small.train.batch_size, on_ranks)

    # -- what is fed ------------------------------------------------------------------------------

    def given(self, number: int = 0) -> Given:
        """Batch `number`; equal numbers give equal batches."""
        if number not in self._given:
            self._given[number] = make_given(self.plan, self.sizes.shapes, self.batch, number)
        return self._given[number]

    # -- methods ----------------------------------------------------------------------------------

    def method(self) -> Method:
        """A method in training, float64; each call gives an equal one that shares nothing."""
        return copy.deepcopy(self._nudged)

    def fresh(self) -> Method:
        """A method as a run begins with it, but for the precision."""
        return copy.deepcopy(self._first)

    @cached_property
    def _first(self) -> Method:
        modules = make_modules(self.plan, 0, self.sizes.axes)
        method = Method(self.graph, self.plan, modules, 0).double().train()
        method.clock.set(total_steps=STEPS, steps_per_epoch=EPOCH)
        drop_nothing(method)
        return method

    @cached_property
    def _nudged(self) -> Method:
        method = copy.deepcopy(self._first)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in method.parameters():
                if not parameter.dim():  # a learned number, such as a temperature
                    continue
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise.to(parameter.dtype), alpha=_NUDGE)
        for _, node in method.nodes.items():
            node.constrain()
        self._show_epoch(method)
        return method

    @torch.no_grad()
    def _show_epoch(self, method: Method) -> None:
        """Let what is renewed at the end of an epoch have seen one."""
        declared = [step.declaration for step in self.plan.steps]
        if not any("epoch" in (d.writes, d.commits) for d in declared):
            return
        for number in range(EPOCH):
            self.forward(method, self.given(number))
            method.after_step()

    # -- running ----------------------------------------------------------------------------------

    def forward(self, method: Method, given: Given) -> StepOutput:
        """A training forward of a batch, writes included."""
        method.skip_step()
        with fed(method, given.views):
            return method(dict(given.data))  # type: ignore[no-any-return]

    def train(self, method: Method, given: Given, rate: float = 0.01) -> StepOutput:
        """A training step of plain gradient descent."""
        output = self.forward(method, given)
        descend(method, gradients(method, output.loss), rate)
        method.after_step()
        return output

    # -- what the declarations say ----------------------------------------------------------------

    def steps(self, *, writes: str = "") -> Iterator[Step]:
        """The steps whose nodes write at a moment."""
        return (step for step in self.plan.steps if step.declaration.writes == writes)

    def place(self, node: str) -> str:
        """Where a node stands in its file."""
        known = {step.name: step for step in self.plan.steps}
        return str(known[node].span) if node in known else ""


def drop_nothing(method: Method) -> None:
    """Switch dropout and stochastic depth off."""
    for module in method.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, PatchDropout):
            module.prob = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def share_all(method: Method) -> bool:
    """Let every batch norm take the whole batch, and say whether that changes anything.

    Whose samples share statistics is then no matter of where they stand in the batch.
    """
    moved = False
    for module in method.modules():
        if isinstance(module, BatchNorm) and (module.groups > 1 or module.ranks == "shuffled"):
            module.groups, module.ranks, moved = 1, "all", True
        elif isinstance(module, Node):
            module._sharing = None
    return moved


def _batches(graph: Graph) -> Iterator[int]:
    """Images of a batch, as few as nodes may take.

    Half of a batch still has several in each group of a batch norm. Nodes that refuse so few, since
    they cut a batch into parts, may take more, and twice as many where a batch is halved.
    """
    groups = [graph.train.batch_norm.groups]
    for spec in graph.nodes.values():
        rule = spec.settings.get("batch_norm")
        given = rule.get("groups") if isinstance(rule, Mapping) else None
        groups += [given] if isinstance(given, int) and given > 0 else []
    fewest = _IMAGES * math.lcm(*groups)
    yield fewest
    if not errors_of(report(graph).problems):  # else the graph is wrong, not the batch
        for batch in _doubled(fewest, graph.train.batch_size):
            run = graph.train.model_copy(update={"batch_size": batch, "accumulate": 1})
            if not errors_of(report(replace(graph, train=run)).problems):
                yield 2 * batch
    yield graph.train.batch_size


def _doubled(first: int, last: int) -> Iterator[int]:
    while (first := 2 * first) < last:
        yield first


def _built(graph: Graph) -> tuple[Graph, Report, float]:
    """The graph with a small batch, what the meta run found, and the work of a pass in FLOP.

    Raises:
        GraphError: The graph has errors.
    """
    for batch in _batches(graph):
        run = graph.train.model_copy(update={"batch_size": batch, "accumulate": 1})
        small = replace(graph, train=run)
        with Work() as work:
            found = report(small)
        if not errors_of(found.problems):
            return small, found, work.flops * batch / META_BATCH
    raise GraphError(tuple(errors_of(found.problems)))


def _work(graph: Graph) -> float:
    """FLOP of a pass, infinite for a graph with errors."""
    try:
        return _built(graph)[2]
    except GraphError:
        return math.inf


def _too_large(graph: Graph, flops: float) -> str:
    found = " or ".join(remedies(graph, _work, _MOST_FLOPS))
    return (
        f"{graph.name} is too large to be proved on a CPU: one forward and backward pass takes "
        f"{flops / 1e9:.0f} GFLOP, and at most {_MOST_FLOPS / 1e9:.0f} are sensible; the wiring is "
        f"the same in small: use {found or 'a smaller network and smaller views'}"
    )
