"""Masks: how many places they leave visible, and whether that number is equal in every image.

Who leaves hidden places out needs masks that hide as many in every image of a batch (*even* ones),
since a tensor has one shape. Masks whose number differs between images are *ragged*.

Codes: E213 a ragged mask where an even one is needed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from sslgraph.chain import chain_even
from sslgraph.checks.references import DATA, Port, Wire, Wiring
from sslgraph.errors import Problem
from sslgraph.ports import Declaration, Member, Visible

UNLIKE = "masks of one node or of equal settings"
"""What makes masks even that come from several nodes and differ."""

_ANY_NUMBER = 1  # whether a mask is even does not depend on how many places there are


class Typed(Protocol):
    """A node whose type and settings are known: a `Bound` or a `Step`."""

    @property
    def declaration(self) -> Declaration:
        """Its type."""

    @property
    def config(self) -> Any:
        """Its settings, None where they are wrong."""

    @property
    def members(self) -> tuple[Member, ...]:
        """The nodes that it repeats."""


def even_inputs(node: Typed) -> Mapping[str, str]:
    """The inputs whose masks have to be even, each with the setting that would do with any."""
    if node.members:
        return chain_even(node.members)
    return {} if node.config is None else node.declaration.even(node.config)


def kept(node: Typed, port: str, places: int) -> Visible | None:
    """How many places the masks of a port leave visible, or None where their type does not say."""
    if node.config is None:
        return None
    return node.declaration.mask_counts(node.config, places).get(port)


def together(masks: Sequence[Visible | None]) -> Visible | None:
    """How many places several masks leave visible that come in as one; None where one is unknown.

    Those of one port are counted by the batch together. Of several ports only a number that is
    known before a run is the same in all.
    """
    known = [mask for mask in masks if mask is not None]
    if not known or len(known) < len(masks):
        return None
    if len(known) == 1 or len({mask.known for mask in known} - {None}) == len(set(known)) == 1:
        return known[0]
    fewest, most = min(mask.fewest for mask in known), max(mask.most for mask in known)
    remedies = [mask.remedy for mask in known if mask.remedy]
    return Visible(fewest, most, remedies[0] if remedies else UNLIKE)


def origins(
    nodes: Mapping[str, Typed], inputs: Mapping[str, Mapping[str, tuple[Wire, ...]]], source: Port
) -> Iterator[Port]:
    """The ports where masks are made that come out of a port, past nodes that pass them through.

    Args:
        nodes: The nodes by name.
        inputs: The wires of each input of each node.
        source: A port that carries masks.
    """
    node, port = source
    if node == DATA or node not in nodes:
        return
    declared = nodes[node].declaration
    variable = declared.outputs[port].kind.variable
    through = [
        wire
        for name, wires in inputs[node].items()
        if variable and declared.inputs[name].kind.variable == variable
        for wire in wires
    ]
    if not through:
        yield source
    for wire in through:
        yield from origins(nodes, inputs, wire.source)


def uneven(wiring: Wiring) -> Iterator[Problem]:
    """Ragged masks that are wired where an even one is needed."""
    for name, bound in wiring.nodes.items():
        for port, instead in even_inputs(bound).items():
            for wire in wiring.inputs[name].get(port, ()):
                for node, made in origins(wiring.nodes, wiring.inputs, wire.source):
                    found = kept(wiring.nodes[node], made, _ANY_NUMBER)
                    if found is not None and not found.even:
                        yield _uneven(wiring, wire, (name, port), node, (instead, found.remedy))


def _uneven(
    wiring: Wiring, wire: Wire, consumer: Port, maker: str, remedies: tuple[str, str]
) -> Problem:
    name, port = consumer
    instead, remedy = remedies
    use = wiring.nodes[maker].declaration.use
    ways = [f"'{remedy}' in {maker}", *([f"'{instead}' in {name}"] if instead else [])]
    return Problem(
        "E213",
        f"{maker} hides more places in some images than in others",
        wiring.graph.document.span(*wire.reference.path),
        expected=f"as many in every image ({name}.{port} takes even masks)",
        got=f"a ragged mask of {use}",
        help=f"say {', or '.join(ways)}",
    )
