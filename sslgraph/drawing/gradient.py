"""Where gradients pass, from what the plan declares; with parameter counts it is exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sslgraph.checks.gradients import WITHOUT_GRADIENT
from sslgraph.checks.references import DATA, Wire
from sslgraph.plan import Plan, Step

Passage = Literal["data", "passes", "stopped"]


class Gradient:
    """The ways of gradients through a plan.

    Args:
        plan: The plan.
        parameters: Number of parameters of each node where it is known. Another node counts as
            learning if its type builds something, unless it draws, is a loss, has a state or stops
            gradients.
    """

    def __init__(self, plan: Plan, parameters: Mapping[str, int]) -> None:
        self._parameters = parameters
        self._kinds = plan.kinds
        self._learnt: set[str] = set()  # what a network had a hand in
        self._sends: set[str] = set()  # outputs that require a gradient
        for step in plan.steps:
            self._forward(step)
        self._receives = {node for node, _ in plan.losses.values()}
        for step in reversed(plan.steps):
            if step.name in self._receives:
                self._receives |= _sources(step) & self._sends

    def passage(self, step: Step, wire: Wire) -> Passage:
        """What a wire into `step` lets back: a gradient, none, or none as it only carries data."""
        source = wire.source[0]
        if source not in self._learnt:
            return "data"
        carries = self._kinds.get(wire.source) not in WITHOUT_GRADIENT
        passes = carries and step.name in self._receives and source in self._sends
        return "passes" if passes else "stopped"

    def may_learn(self, step: Step) -> bool:
        """Whether a node works with parameters, as far as that is known."""
        declaration = step.declaration
        if step.spec.of and not (declaration.writes or declaration.stops_gradient):
            return True  # it runs on the parameters of others
        if step.name in self._parameters:
            return self._parameters[step.name] > 0
        fixed = declaration.draws or declaration.is_loss or declaration.stops_gradient
        return _builds(declaration.module) and not (fixed or declaration.writes)

    def is_still(self, step: Step) -> bool:
        """Whether it works on what a network made, and no gradient passes it."""
        return step.name in self._learnt and step.name not in self._receives

    def _forward(self, step: Step) -> None:
        sources, declaration = _sources(step), step.declaration
        learns = self.may_learn(step)
        if learns or declaration.writes or sources & self._learnt:
            self._learnt.add(step.name)
        trains = learns and step.trained
        if not declaration.stops_gradient and (trains or sources & self._sends):
            self._sends.add(step.name)


def _builds(node_type: type) -> bool:
    """Whether a node type overrides `build`, the one place where nodes make parameters."""
    return sum("build" in vars(base) for base in node_type.__mro__) > 1


def _sources(step: Step) -> set[str]:
    """The nodes that `forward` of a step reads."""
    return {w.source[0] for wires in step.wires("read").values() for w in wires} - {DATA}
