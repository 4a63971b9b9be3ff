"""Settings: the type of every node, and its settings as that type wants them.

Codes: E101 unknown node type - E102 unknown setting - E103 bad value - E104 setting missing
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from sslgraph import registry
from sslgraph.checks.members import Bound, Chain, in_order_of_members, report_unknown
from sslgraph.errors import Problem, did_you_mean
from sslgraph.lists import split
from sslgraph.ports import Declaration
from sslgraph.spec import Graph, NodeSpec
from sslgraph.validation import Codes, problems_of

CODES = Codes(unknown="E102", bad="E103", missing="E104")

GENERIC = ("use", "in", "of", "train", "weights")
"""Keys that every node has beside its settings."""


def bind(graph: Graph) -> tuple[dict[str, Bound], list[Problem]]:
    """Find each node's type, validate its settings and find what it repeats.

    Left out are nodes of unknown type, and those of which no port is known since all depend on
    settings or members that are wrong.
    """
    found: dict[str, Bound] = {}
    problems: list[Problem] = []
    for spec in in_order_of_members(graph, problems):
        declaration = _declaration(graph, spec, problems)
        bound = declaration and _bound(graph, spec, declaration, found, problems)
        if bound:
            found[spec.name] = bound
    return {name: found[name] for name in graph.nodes if name in found}, problems


def _bound(
    graph: Graph,
    spec: NodeSpec,
    declaration: Declaration,
    before: dict[str, Bound],
    problems: list[Problem],
) -> Bound | None:
    declaration, inputs = split(declaration, spec.inputs)
    spec = replace(spec, inputs=inputs)
    if not declaration.repeats:
        config = _config(graph, spec, declaration, {}, problems)
        if declaration.derives:
            if config is None:
                return Bound(spec, declaration, None) if declaration.outputs else None
            return Bound(spec, declaration.of_node(config), config)
        return Bound(spec, declaration, config)
    chain = Chain(graph, spec, declaration, before, CODES, problems)
    config = _config(graph, spec, declaration, chain.settings_of_members(), problems)
    members = chain.found()
    if members is None:
        return None
    report_unknown(chain, members)
    return Bound(spec, declaration.of_node(config, members), config, members)


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


def _config(
    graph: Graph,
    spec: NodeSpec,
    declaration: Declaration,
    others: dict[str, Any],
    problems: list[Problem],
) -> Any:
    """The settings of a node beside those that are for its members, None where they are wrong."""
    settings = {key: value for key, value in spec.settings.items() if key not in others}
    if spec.of and not declaration.repeats:
        settings["of"] = spec.of  # no setting of this type, which is reported as such
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
