"""Settings: the type of every node, and its settings as that type wants them.

Codes: E101 unknown node type - E102 unknown setting - E103 bad value - E104 setting missing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sslgraph import registry
from sslgraph.errors import Problem, did_you_mean
from sslgraph.ports import Declaration
from sslgraph.spec import Graph, NodeSpec
from sslgraph.validation import Codes, problems_of

CODES = Codes(unknown="E102", bad="E103", missing="E104")

GENERIC = ("use", "in", "of", "train", "weights")
"""Keys that every node has beside its settings."""


@dataclass(frozen=True)
class Bound:
    """A node whose type is known.

    Args:
        spec: The node as it was written.
        declaration: Its type.
        config: Its settings, None where they are wrong.
    """

    spec: NodeSpec
    declaration: Declaration
    config: Any


def bind(graph: Graph) -> tuple[dict[str, Bound], list[Problem]]:
    """Find each node's type and validate its settings; nodes of unknown type are left out."""
    nodes: dict[str, Bound] = {}
    problems: list[Problem] = []
    for name, spec in graph.nodes.items():
        declaration = _declaration(graph, spec, problems)
        if declaration is None:
            continue
        config = _config(graph, spec, declaration, problems)
        nodes[name] = Bound(spec, declaration, config)
    return nodes, problems


def _declaration(graph: Graph, spec: NodeSpec, problems: list[Problem]) -> Declaration | None:
    if not spec.use:
        return None  # reading has said so
    try:
        return registry.find(spec.use)
    except registry.UnknownNodeTypeError:
        hint = did_you_mean(spec.use, registry.names(), show="node types")
        span = graph.document.span("nodes", spec.name, "use")
        problems.append(Problem("E101", f"no node type '{spec.use}'", span, under=hint))
        return None


def _config(graph: Graph, spec: NodeSpec, declaration: Declaration, problems: list[Problem]) -> Any:
    settings = dict(spec.settings)
    if spec.of:
        settings["of"] = spec.of  # no type of ours takes one unless it declares the setting
    try:
        return declaration.config.model_validate(settings)
    except ValidationError as failure:
        problems += problems_of(
            failure,
            graph.document,
            ("nodes", spec.name),
            declaration.config,
            codes=CODES,
            sample=declaration.sample,
        )
        return None
