"""Members: the nodes that `of:` names, for types that repeat others, such as an ema.

Codes: E104 `of` missing - E102, E103 a setting of no member, a bad value - E105 no such member -
E106 no chain - E107 a node that can't be repeated
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import networkx as nx
from pydantic import ValidationError

from sslgraph.errors import Problem, did_you_mean
from sslgraph.ports import Declaration, Member
from sslgraph.spec import Graph, NodeSpec, Reference
from sslgraph.validation import Codes, problems_of


@dataclass(frozen=True)
class Bound:
    """A node whose type is known.

    Args:
        spec: The node as it was written.
        declaration: Its type, with the ports that this node has.
        config: Its settings, None where they are wrong.
        members: The nodes that it repeats.
    """

    spec: NodeSpec
    declaration: Declaration
    config: Any
    members: tuple[Member, ...] = ()


@dataclass
class Chain:
    """The members of one node, as they are found.

    Args:
        graph: The graph.
        spec: The node that repeats them.
        declaration: Its type.
        nodes: The nodes that were bound before it.
        codes: Codes for wrong settings.
        problems: Filled with what is wrong.
    """

    graph: Graph
    spec: NodeSpec
    declaration: Declaration
    nodes: Mapping[str, Bound]
    codes: Codes
    problems: list[Problem]
    _own: dict[str, Any] = field(default_factory=dict)

    def found(self) -> tuple[Member, ...] | None:
        """The members, or None where one is missing or wrong; what was not reported is now."""
        if not self.spec.of:
            self._report(
                "E104",
                f"{self.spec.name} ({self.spec.use}) needs 'of'",
                (),
                help="add `of: node` or `of: [first, second]`, the nodes that it repeats",
            )
            return None
        parts = [self._part(place, path) for place, path in enumerate(self.spec.of)]
        if any(part is None for part in parts):
            return None
        members = [part for part in parts if part is not None]
        if len({member.name for member in members}) < len(members):
            names = [member.name for member in members]
            twice = next(name for name in names if names.count(name) > 1)
            self._report("E106", "a chain names each node once", ("of",), got=f"{twice} twice")
            return None
        linked = [self._linked(place, members) for place in range(len(members))]
        done = tuple(member for member in linked if member is not None)
        return done if len(done) == len(members) else None

    def _part(self, place: int, path: str) -> Member | None:
        """One entry of `of`: a node, or a member of a node that repeats others."""
        node, _, inner = path.partition(".")
        where = ("of", place) if self._is_list else ("of",)
        if node not in self.graph.nodes:
            hint = did_you_mean(node, self.graph.nodes, show="nodes")
            self._report("E105", f"no node named '{node}'", where, under=hint)
            return None
        if node == self.spec.name:
            help = "name the node whose weights it is to have"
            self._report("E107", f"{node} can't repeat itself", where, help=help)
            return None
        bound = self.nodes.get(node)
        if bound is None or bound.config is None:
            return None  # it is broken itself, which was reported, or it is part of a circle
        if not inner:
            return self._repeatable(Member(path, bound.declaration, bound.config), where)
        member = next((m for m in bound.members if m.name == inner), None)
        if member is None:
            names = [member.name for member in bound.members]
            hint = did_you_mean(inner, names, show=f"members of {node}") if names else ""
            chain = inner in self.graph.nodes and not names
            help = f"a chain of both is [{node}, {inner}]" if chain else ""
            self._report("E105", f"{node} has no member '{inner}'", where, under=hint, help=help)
            return None
        return self._repeatable(Member(path, member.declaration, member.config), where)

    def _repeatable(self, member: Member, where: tuple[str | int, ...]) -> Member | None:
        declared = member.declaration
        why = {
            f"it keeps a state, written once a {declared.writes}": bool(declared.writes),
            "it draws its views anew": declared.draws,
            "it is a loss": declared.is_loss,
        }
        reason = next((text for text, holds in why.items() if holds), "")
        if not reason:
            return member
        inside = [f"{member.node}.{m.name}" for m in declared.members]
        help = f"name a part of it: {' or '.join(inside)}" if inside else "wire its output instead"
        called = member.path + (f" ({declared.use})" if declared.use != member.path else "")
        title = f"{called} can't be repeated: {reason}"
        self._report("E107", title, where, help=help)
        return None

    def _linked(self, place: int, members: list[Member]) -> Member | None:
        """A member with what feeds it: the one before it, or the wires that it keeps."""
        member = members[place]
        spec = self.nodes[member.node].spec
        inputs = {} if "." in member.path else dict(_by_port(spec, member.declaration))
        links: dict[str, str] = {}
        if place:
            before = members[place - 1]
            links = dict(_links(before, inputs)) or self._links_within(before, member)
            if not links:
                self._report(
                    "E106",
                    f"{member.path} takes nothing from {before.path}, so they are no chain",
                    ("of", place),
                    expected=f"a node that {before.path} feeds",
                    help=self._way(before, member),
                )
                return None
        main = next(iter(member.declaration.required), "") if not place else ""
        kept = {
            port: " ".join(reference.text for reference in references)
            for port, references in inputs.items()
            if port in member.declaration.required and port not in links and port != main
        }
        config, replaced = self._config(member)
        if config is None:
            return None
        declared = member.declaration
        if replaced:  # outputs may depend on settings
            declared = declared.of_node(config, declared.members)
        return Member(member.path, declared, config, links, kept, replaced)

    def _links_within(self, before: Member, member: Member) -> dict[str, str]:
        """The links of two members of one node, such as an ema, that follow each other in it."""
        chain = self.nodes[member.node].members if before.node == member.node else ()
        for earlier, later in pairwise(chain):
            if (earlier.name, later.name) == (before.name, member.name):
                return dict(later.links)
        return {}

    def _way(self, before: Member, member: Member) -> str:
        """How the graph's own wires lead from one member to the next, or back."""
        if before.node == member.node:
            names = [m.name for m in self.nodes[member.node].members]
            ends = sorted((names.index(before.name), names.index(member.name)))
            path = ", ".join(f"{member.node}.{name}" for name in names[ends[0] : ends[1] + 1])
            return f"as in {member.node}: [{path}]"
        wires: nx.DiGraph[str] = nx.DiGraph()
        wires.add_nodes_from(self.graph.nodes)
        for name, spec in self.graph.nodes.items():
            found = [r for references in spec.inputs.values() for r in references]
            wires.add_edges_from((reference.node, name) for reference in found)
        if nx.has_path(wires, before.node, member.node):
            path = ", ".join(nx.shortest_path(wires, before.node, member.node))
            return f"name what lies between them too: [{path}]"
        if nx.has_path(wires, member.node, before.node):
            path = ", ".join(nx.shortest_path(wires, member.node, before.node))
            return f"{member.path} comes first: [{path}]"
        return "list the nodes in the order in which they feed each other"

    def _config(self, member: Member) -> tuple[Any, tuple[str, ...]]:
        """The member's settings with those that the repetition replaces; None with problems."""
        given = self.settings_of_members() if self.declaration.replaces else {}
        replaced = {key: value for key, value in given.items() if key in _fields(member)}
        if not replaced:
            return member.config, ()
        model = member.declaration.config
        try:
            config = model.model_validate({**member.config.model_dump(by_alias=True), **replaced})
        except ValidationError as failure:
            self.problems += problems_of(
                failure,
                self.graph.document,
                ("nodes", self.spec.name),
                model,
                codes=self.codes,
                sample=member.declaration.sample,
            )
            return None, ()
        return config, tuple(replaced)

    def settings_of_members(self) -> dict[str, Any]:
        """The settings that are not the repeating type's own."""
        own = self.declaration.config.model_fields
        return {key: value for key, value in self.spec.settings.items() if key not in own}

    def unknown(self, members: tuple[Member, ...]) -> Iterator[str]:
        """Settings that neither the type nor a member has."""
        for key in self.settings_of_members():
            if not any(key in _fields(member) for member in members):
                yield key

    @property
    def _is_list(self) -> bool:
        data = self.graph.document.data["nodes"][self.spec.name]
        return isinstance(data["of"], list)

    def _report(self, code: str, title: str, where: tuple[str | int, ...], **more: str) -> None:
        span = self.graph.document.span("nodes", self.spec.name, *where, key=not where)
        self.problems.append(Problem(code, title, span, **more))  # type: ignore[arg-type]


def report_unknown(chain: Chain, members: tuple[Member, ...]) -> None:
    """Report settings that neither a repeating node's type nor one of its members has.

    A type that lends the very modules of its members can replace none of theirs.
    """
    declared, document = chain.declaration, chain.graph.document
    known = [*declared.config.model_fields]
    if declared.replaces:
        known += [name for member in members for name in _fields(member)]
    for key in chain.unknown(members):
        hint = did_you_mean(key, known, show=f"settings of {declared.use}")
        span = document.span("nodes", chain.spec.name, key, key=True)
        chain.problems.append(Problem(chain.codes.unknown, f"unknown setting '{key}'", span, hint))
    for key in {} if declared.replaces else chain.settings_of_members():
        owner = next((member for member in members if key in _fields(member)), None)
        if owner:
            span = document.span("nodes", chain.spec.name, key, key=True)
            title = f"{declared.use} can't change '{key}' of {owner.path}"
            help = f"it is {owner.path} at a second place, with its settings: set '{key}' there"
            chain.problems.append(Problem(chain.codes.unknown, title, span, help=help))


def in_order_of_members(graph: Graph, problems: list[Problem]) -> list[NodeSpec]:
    """The nodes, each after those that it repeats; those that repeat each other are left out."""
    repeats: nx.DiGraph[str] = nx.DiGraph()
    repeats.add_nodes_from(graph.nodes)
    for name, spec in graph.nodes.items():
        found = {_node(path) for path in spec.of} & graph.nodes.keys() - {name}
        repeats.add_edges_from((node, name) for node in found)
    circles = [c for c in nx.strongly_connected_components(repeats) if len(c) > 1]
    for circle in circles:
        names = [name for name in graph.nodes if name in circle]
        path = " -> ".join([*names, names[0]])
        span = graph.document.span("nodes", names[0], "of")
        problems.append(
            Problem(
                "E107",
                "nodes repeat each other in a circle",
                span,
                got=path,
                help="let one of them repeat another node",
            )
        )
    repeats.remove_nodes_from({name for circle in circles for name in circle})
    rank = {name: place for place, name in enumerate(graph.nodes)}
    ordered = nx.lexicographical_topological_sort(repeats, key=rank.__getitem__)
    return [graph.nodes[name] for name in ordered]


def _node(path: str) -> str:
    return path.partition(".")[0]


def _fields(member: Member) -> Mapping[str, Any]:
    return member.declaration.config.model_fields


def _by_port(spec: NodeSpec, declared: Declaration) -> Iterator[tuple[str, tuple[Reference, ...]]]:
    """The references of a node by the name of the input; a bare one means the only required."""
    for given, references in spec.inputs.items():
        bare = declared.required[0] if len(declared.required) == 1 else ""
        port = declared.port(given) if given else bare
        if port in declared.inputs:
            yield port, references


def _links(
    before: Member, inputs: Mapping[str, tuple[Reference, ...]]
) -> Iterator[tuple[str, str]]:
    """Inputs that the member before feeds, with its output."""
    for port, references in inputs.items():
        for reference in references:
            if reference.node != before.path:
                continue
            output = reference.port or before.declaration.main
            if output in before.declaration.outputs:
                yield port, output
                break
