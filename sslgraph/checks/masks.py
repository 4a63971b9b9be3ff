"""Masks: how many places they leave visible, and whether that number is equal in every image.

Who leaves hidden places out needs masks that hide as many in every image (*even* ones), since the
shape of a tensor never depends on data. Masks whose number differs are *ragged*.

Codes: E213 a ragged mask where an even one is needed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from sslgraph.chain import chain_even
from sslgraph.checks.references import DATA, Port, Wire, Wiring
from sslgraph.errors import Problem
from sslgraph.ports import Declaration, Member

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


def kept(node: Typed, port: str, places: int) -> int | str:
    """How many places a mask leaves visible; of a ragged one what would make it even, or ''."""
    if node.config is None:
        return ""
    return node.declaration.mask_counts(node.config, places).get(port, "")


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
                    remedy = kept(wiring.nodes[node], made, _ANY_NUMBER)
                    if remedy and isinstance(remedy, str):
                        yield _uneven(wiring, wire, (name, port), node, (instead, remedy))


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
