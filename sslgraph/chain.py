"""Chains of members: the ports and views of a node that repeats others, such as an ema.

The wire into the node feeds the first member; each further member is fed by the one before it, as
in the graph. The node's outputs are all outputs of all members, so that any of them can be read.
"""

from __future__ import annotations

from collections.abc import Mapping

from sslgraph.ports import Identities, In, Kind, Member, Out, Port, Ports

_SHARED_AXES = ("V", "B", "...")
_PRIME = "'"


def chain_ports(members: tuple[Member, ...]) -> Ports:
    """The ports of a node that repeats a chain.

    Inputs of the first member keep their names, those of a further one begin with its name
    (``decoder.mask``). An input that its graph requires keeps its wire unless another is given; an
    optional one is unplugged unless given. Outputs of a single member keep their names; those of a
    chain begin with the member's name, and the last member's main output is the main one.

    Args:
        members: The chain, not empty.
    """
    inputs: dict[str, In] = {}
    outputs: dict[str, Out] = {}
    aliases: dict[str, str] = {}
    made: dict[str, Kind] = {}
    for place, member in enumerate(members):
        kinds = _kinds(place, member, made)
        for name, port in member.declaration.inputs.items():
            if name in member.links:
                continue
            own = name if place == 0 else f"{member.name}.{name}"
            aliases[f"{member.name}.{name}"] = own
            inputs[own] = _input(member, port, own, place, kinds[name])
        made = {}
        for name, output in member.declaration.outputs.items():
            made[name] = _output_kind(member, output, kinds)
            own = name if len(members) == 1 else f"{member.name}.{name}"
            is_main = member is members[-1] and name == member.declaration.main
            outputs[own] = _output(member, output, own, place, made[name], is_main)
            aliases[f"{member.name}.{name}"] = own
            if member is members[-1]:
                aliases.setdefault(name, own)
            if name == member.declaration.main:
                aliases[member.name] = own
    return Ports(inputs, outputs, {name: port for name, port in aliases.items() if name != port})


def chain_identities(
    members: tuple[Member, ...], inputs: Mapping[str, Identities]
) -> Mapping[str, Identities]:
    """The views of each output of a chain, carried through its members.

    Args:
        members: The chain.
        inputs: The views of each of its inputs.
    """
    found: dict[str, Identities] = {}
    made: Mapping[str, Identities] = {}
    for place, member in enumerate(members):
        arriving = {port: made[output] for port, output in member.links.items() if output in made}
        for port in member.declaration.inputs:
            own = port if place == 0 else f"{member.name}.{port}"
            if port not in member.links and own in inputs:
                arriving[port] = inputs[own]
        made = member.declaration.identities(member.name, member.config, arriving)
        prefix = "" if len(members) == 1 else f"{member.name}."
        found.update({prefix + port: views for port, views in made.items()})
    return found


def chain_even(members: tuple[Member, ...]) -> dict[str, str]:
    """The inputs of a chain whose masks have to be even, with what its members say of them."""
    return {
        port if place == 0 else f"{member.name}.{port}": instead
        for place, member in enumerate(members)
        for port, instead in member.declaration.even(member.config).items()
        if port not in member.links
    }


def _kinds(place: int, member: Member, before: Mapping[str, Kind]) -> dict[str, Kind]:
    """What each input of a member accepts; a linked one has the kind of what feeds it."""
    kinds = {}
    for name, port in member.declaration.inputs.items():
        if name in member.links:
            kinds[name] = before.get(member.links[name], port.kind)
        else:
            variable = f"{port.kind.variable}{place}" if port.kind.variable else ""
            kinds[name] = Kind(port.kind.allowed, variable)
    return kinds


def _output_kind(member: Member, port: Out, kinds: Mapping[str, Kind]) -> Kind:
    if not port.kind.variable:
        return port.kind
    same = [
        n for n, p in member.declaration.inputs.items() if p.kind.variable == port.kind.variable
    ]
    linked = next((name for name in same if name in member.links), same[0])
    return kinds[linked]


def _axes(member: Member, port: Port, place: int) -> str:
    """A port's axes, apart from those of other members; values of settings become numbers."""

    def own(axis: str) -> str:
        if axis in _SHARED_AXES or axis.isdigit():
            return axis
        if axis[0].islower():
            return str(getattr(member.config, axis))
        return (
            axis if place == 0 else f"{axis.replace(_PRIME, '')}{place}{_PRIME * (_PRIME in axis)}"
        )

    return " ".join(map(own, port.axes))


def _input(member: Member, port: In, name: str, place: int, kind: Kind) -> In:
    default = port.default or member.kept.get(port.name, "")
    made = In("embedding", _axes(member, port, place), optional=port.optional, default=default)
    made.kind, made.name = kind, name
    return made


def _output(member: Member, port: Out, name: str, place: int, kind: Kind, is_main: bool) -> Out:
    # Apart from the inputs' axes: what leaves a member may have another D than what came in.
    made = Out("embedding", _axes(member, port, place + 1), main=is_main)
    made.kind, made.name = kind, name
    return made
