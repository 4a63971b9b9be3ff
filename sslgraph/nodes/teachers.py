"""Nodes that repeat others: a slow copy (`ema`) and the same weights at a second place (`shared`).

What is repeated is a node or a chain of nodes. One call runs the whole chain and gives all outputs
of all members.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from sslgraph.chain import chain_ports
from sslgraph.nodes.base import Context, Node, SettingError
from sslgraph.nodes.calls import arranged
from sslgraph.ports import Declaration, Member, Ports, Visible
from sslgraph.schedules import Bounds, Number

_Source = tuple[bool, int]
"""Where an input of a member comes from: given from outside, and which; or an earlier output."""


class Repeat(Node):
    """Base of nodes that repeat others; made with the modules that they repeat.

    Args:
        of: The modules, in the order in which they feed each other.
        declaration: Its declaration in a graph; without one each member feeds its main output (or
            its first) into the only required input of the next.
        **keywords: As for every node.
    """

    _originals: tuple[Node, ...]

    repeats = True
    sample = {"of": [{"use": "projector", "hidden": [8], "out": 4}]}

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """The inputs of the first member and the outputs of all."""
        return chain_ports(members) if members else Ports({}, {})

    def __init__(
        self,
        *,
        of: Sequence[Node] | Node,
        declaration: Declaration | None = None,
        context: Context | None = None,
        **keywords: Any,
    ) -> None:
        self._take(tuple(of) if isinstance(of, Sequence) else (of,))
        declared = type(self).declaration
        declaration = declaration or declared.of_node(None, _members(self._originals))
        super().__init__(declaration=declaration, context=context, **keywords)

    def _take(self, originals: tuple[Node, ...]) -> None:
        # In a tuple, and before torch's own set-up: they belong to other nodes, so neither their
        # parameters nor their mode are this node's.
        object.__setattr__(self, "_originals", originals)

    def build(self) -> None:
        """Find out once how values go through the chain."""
        self._plan = list(_plan(self.declaration.members))
        unbuilt = next((node for node in self._originals if not node.built), None)
        if unbuilt is not None:
            raise ValueError(
                f"{self.declaration.use} repeats {unbuilt.declaration.use}, whose sizes are not "
                "known yet: make it with axes={...} or call it once"
            )

    def _settle(self) -> None:
        """Find out once what members see here; other wires come in than where they stand."""
        members = zip(self.declaration.members, self._modules_run(), strict=True)
        self._places = [
            replace(module.context, kept=self._kept(place, member, module))
            for place, (member, module) in enumerate(members)
        ]

    def _kept(self, place: int, member: Member, module: Node) -> dict[str, Visible]:
        """How many places the masks into a member leave visible here."""
        found = {port: v for port, v in module.context.kept.items() if port in member.links}
        for port in member.declaration.reads:
            own = port if place == 0 else f"{member.name}.{port}"
            if port not in member.links and own in self.context.kept:
                found[port] = self.context.kept[own]
        return found

    @contextmanager
    def _placed(self, place: int) -> Iterator[Node]:
        """A member's module, which knows of this place for as long as this is entered."""
        module = self._modules_run()[place]
        own, module.context = module.context, self._places[place]
        try:
            yield module
        finally:
            module.context = own

    def part(self, output: str) -> Node:
        """The member that computes an output."""
        names = [member.name for member in self.declaration.members]
        name = output.partition(".")[0] if len(names) > 1 else names[0]
        return self._modules_run()[names.index(name)].part(output.partition(".")[2] or output)

    def _modules_run(self) -> list[Node]:
        """The modules that a call runs, one a member."""
        raise NotImplementedError

    def fits(self, axes: Mapping[str, int]) -> None:
        """See that what comes in fits the first member, which was built for other wires."""
        with self._placed(0) as module:
            module.fits(axes)

    def _run(self, given: tuple[Tensor | None, ...], named: Mapping[str, Tensor | None]) -> Any:
        """The outputs of all members."""
        names = list(self.declaration.reads)
        if named or len(given) != len(names):
            given = arranged(self, given, named, names)
        made: list[Tensor] = []
        for place, sources in enumerate(self._plan):
            values = [given[at] if outside else made[at] for outside, at in sources]
            with self._placed(place) as module:
                result: Any = module(*values)
            made += [result] if isinstance(result, Tensor) else list(result)
        return made[0] if len(made) == 1 else tuple(made)


class Ema(Repeat, use="ema"):
    """A slow copy: the exponential moving average of other nodes' weights (Mean Teacher, eq. 2).

    After each optimizer step every parameter t of the copy follows its original o:
    t <- momentum t + (1 - momentum) o. It begins equal to its original. No gradient passes it.
    Buffers are not averaged: running statistics of batch norm are the copy's own, from what it
    sees, in training mode.
    """

    writes = "step"
    stops_gradient = True
    replaces = True
    sample = {**Repeat.sample, "momentum": 0.9}

    class Config(Node.Config):
        """Settings.

        Attributes:
            momentum: How much of itself the copy keeps in each step: 1 never changes it, 0 makes it
                equal to its original after each step.
        """

        momentum: Annotated[Number, Bounds(ge=0, le=1)] = 0.996

    momentum: Tensor

    def build(self) -> None:
        """Copy the members, with the settings that this node replaces."""
        super().build()
        members = zip(self.declaration.members, self._originals, strict=True)
        copies = {m.name: _copied(m, original) for m, original in members}
        for name, own in copies.items():
            own.rename(f"{self.context.name}.{name}")
        self.members = nn.ModuleDict(copies)
        self.members.requires_grad_(requires_grad=False)
        self._settle()

    def timed(self) -> Mapping[str, Node]:
        """Itself and the copies, whose settings may follow the run like their originals'."""
        return {"": self, **dict(zip(self.members, self._modules_run(), strict=True))}

    def forward(self, *given: Tensor | None, **named: Tensor | None) -> Any:
        """The outputs of the copies."""
        with torch.no_grad():
            return self._run(given, named)

    def _modules_run(self) -> list[Node]:
        return [module for module in self.members.values() if isinstance(module, Node)]

    def write(self) -> None:
        """Follow the originals by one step."""
        pairs = [
            (own, other)
            for copied, original in zip(self.members.values(), self._originals, strict=True)
            for own, other in zip(copied.parameters(), original.parameters(), strict=True)
        ]
        rate = 1 - self.momentum
        exact = [(own, other) for own, other in pairs if own.dtype.itemsize >= 4]
        if exact:
            own, other = zip(*exact, strict=True)
            rates = [rate.to(tensor.device, tensor.dtype) for tensor in own]
            torch._foreach_lerp_(own, [tensor.detach() for tensor in other], rates)
        for tensor, target in pairs:  # in half precision 1 - momentum would be lost
            if tensor.dtype.itemsize < 4:
                tensor.copy_(tensor.float().lerp(target.detach().float(), rate))


class Shared(Repeat, use="shared"):
    """The same weights at a second place, such as crops of another resolution (DINO, section 3.1).

    It has no parameters of its own: gradients go into those of its originals.
    """

    def build(self) -> None:
        """Find out how values go through the originals here."""
        super().build()
        self._settle()

    def forward(self, *given: Tensor | None, **named: Tensor | None) -> Any:
        """The outputs of the originals for these inputs."""
        return self._run(given, named)

    def _modules_run(self) -> list[Node]:
        return list(self._originals)


def _copied(member: Member, original: Node) -> Node:
    """A copy of a module; built anew where settings are replaced."""
    if not member.replaced:
        return copy.deepcopy(original)
    context = original.context
    copied: Node = type(original)(axes=original.axes, context=context, config=member.config)
    mine = {name: tuple(value.shape) for name, value in copied.named_parameters()}
    theirs = {name: tuple(value.shape) for name, value in original.named_parameters()}
    odd = sorted(mine.items() ^ theirs.items())
    if odd:
        raise SettingError(
            f"{' and '.join(member.replaced)} would give the copy of {member.path} other weights",
            path=(member.replaced[0],),
            expected="settings that leave its parameters as they are, such as drop_path",
            got=f"another {odd[0][0]}",
            help=f"set it in {member.node} itself",
        )
    known = copied.state_dict()
    copied.load_state_dict({k: v for k, v in original.state_dict().items() if k in known}, False)
    return copied


def _members(nodes: tuple[Node, ...]) -> tuple[Member, ...]:
    """Members for modules without a graph: main output into the only required input."""
    found: list[Member] = []
    for place, node in enumerate(nodes):
        links = {}
        if place:
            before = found[-1].declaration
            output = before.main or next(iter(before.outputs))
            links = {node.declaration.required[0]: output}
        path = f"{node.declaration.use}{place}"
        found.append(Member(path, node.declaration, node.config, links))
    return tuple(found)


def _plan(members: tuple[Member, ...]) -> list[list[_Source]]:
    """For each member where the values of its inputs come from."""
    plan: list[list[_Source]] = []
    before: dict[str, int] = {}
    given, first = 0, 0
    for member in members:
        sources: list[_Source] = []
        for port in member.declaration.reads:
            if port in member.links:
                sources.append((False, before[member.links[port]]))
            else:
                sources.append((True, given))
                given += 1
        plan.append(sources)
        before = {name: first + at for at, name in enumerate(member.declaration.outputs)}
        first += len(before)
    return plan
