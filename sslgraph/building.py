"""Resolved data to a `Graph`: what is sound of it, and a problem for the rest.

| code | what is wrong |
|---|---|
| E030 | an unknown key at the top |
| E031 | no format version, or one that is not known |
| E032 | a value of the wrong kind |
| E033 | a name that a node or a graph can't have |
| E034 | a node without `use` |
| E035 | not a reference |
| E036 | no nodes |
| E040 | an unknown key in `train` or `data` |
| E041 | a bad value in `train`, `data` or `minimize` |
| E042 | a missing key in `train` or `data` |
| W040 | an optimizer setting that the optimizer doesn't use |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sslgraph.canonical import ORDER
from sslgraph.errors import Problem, did_you_mean, in_file_order
from sslgraph.schedules import Number, Schedule
from sslgraph.source import Document, Path
from sslgraph.spec import DataSpec, Graph, NodeSpec, Reference, is_node_name
from sslgraph.train_spec import NodeTrain, TrainSpec
from sslgraph.tree import kind
from sslgraph.validation import Codes, is_unresolved, problems_of

FORMAT = 1

_CODES = Codes(unknown="E040", bad="E041", missing="E042")
_REFERENCE_HELP = "write node, node.port, node.0 or node.port.0:2; 'node.1:' needs quotes"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NUMBER: TypeAdapter[float | Schedule] = TypeAdapter(Number, config=ConfigDict(defer_build=True))
_OPTIMIZER_OF = {
    "momentum": ("sgd", "lars", "larc"),
    "nesterov": ("sgd",),
    "betas": ("adam", "adamw"),
    "eps": ("adam", "adamw"),
    "trust_coefficient": ("lars", "larc"),
    "form": ("lars",),
}

_Model = TypeVar("_Model", bound=BaseModel)


def build(
    document: Document,
    problems: list[Problem],
    *,
    name: str,
    presets: tuple[str, ...] = (),
    preset: str | None = None,
) -> Graph:
    """The graph that a document describes.

    Args:
        document: Merged data, variables replaced.
        problems: What was found before.
        name: Its name where the document has none.
        presets: Names of the presets there are.
        preset: The one in force.
    """
    builder = _Builder(document, list(problems))
    builder.check_top()
    return builder.graph(name, presets, preset)


class _Builder:
    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.problems = problems
        self._document = document
        self._data = document.data

    def graph(self, name: str, presets: tuple[str, ...], preset: str | None) -> Graph:
        train = self._model(TrainSpec, ("train",), "training setting")
        self._check_optimizer(train)
        title, paper, family, summary = map(self._text, ("title", "paper", "family", "summary"))
        graph = Graph(
            document=self._document,
            name=self._graph_name(name),
            title=title,
            paper=paper,
            family=family,
            summary=summary,
            nodes=self._nodes(),
            minimize=self._minimize(),
            outputs=self._outputs(),
            train=train,
            data=self._model(DataSpec, ("data",), "data setting"),
            presets=presets,
            preset=preset,
            problems=(),
        )
        return replace(graph, problems=tuple(in_file_order(self.problems)))

    def check_top(self) -> None:
        for key in self._data:
            if key not in ORDER:
                span = self._document.span(key, key=True)
                known = (*ORDER, "extends")
                help = did_you_mean(key, known, show="keys")
                if key == "extends":
                    help = "a file has it at its top; a preset can't have it"
                self.problems.append(Problem("E030", f"unknown key '{key[:80]}'", span, help=help))
        version = self._data.get("sslgraph")
        if version != FORMAT or isinstance(version, bool):
            title = "the format version is missing" if version is None else "unknown format version"
            span = self._document.span("sslgraph") if version is not None else self._document.span()
            help = f"begin the graph with 'sslgraph: {FORMAT}'"
            self.problems.append(Problem("E031", title, span, help=help))

    def _wrong(self, path: Path, expected: str, value: object) -> None:
        if is_unresolved(value):
            return
        name = ".".join(map(str, path))
        span = self._document.span(*path)
        title = f"'{name}' is not {expected}"
        self.problems.append(Problem("E032", title, span, expected=expected, got=kind(value)))

    def _mapping(self, *path: str) -> dict[str, Any]:
        value: Any = self._data
        for part in path:
            value = value.get(part, {})
        if isinstance(value, dict):
            return value
        self._wrong(path, "a mapping", value)
        return {}

    def _text(self, key: str) -> str:
        value = self._data.get(key, "")
        if isinstance(value, str):
            return value
        self._wrong((key,), "text", value)
        return ""

    def _graph_name(self, default: str) -> str:
        name = self._text("name")
        if not name or is_unresolved(name):
            return re.sub(r"[^A-Za-z0-9_-]+", "_", default).strip("_-") or "graph"
        if not _NAME.fullmatch(name):
            span = self._document.span("name")
            expected = "letters, digits, '_' and '-', since run folders are called so"
            title = f"'{name[:80]}' can't name a graph"
            self.problems.append(Problem("E033", title, span, expected=expected))
            return "graph"
        return name

    def _model(self, model: type[_Model], path: Path, noun: str) -> _Model:
        value: Any = self._data
        for part in path:
            value = value.get(part, {})
        try:
            return model.model_validate(value)
        except ValidationError as error:
            self.problems += problems_of(
                error, self._document, path, model, codes=_CODES, noun=noun
            )
            return model()

    def _check_optimizer(self, train: TrainSpec) -> None:
        for key in self._mapping("train") if train.model_fields_set else ():
            users = _OPTIMIZER_OF.get(key, (train.optimizer,))
            if train.optimizer not in users:
                span = self._document.span("train", key, key=True)
                title = f"{train.optimizer} has no '{key}'"
                help = f"remove it, or delete it with 'null'; it is for {', '.join(users)}"
                self.problems.append(Problem("W040", title, span, help=help, severity="warning"))

    def _nodes(self) -> dict[str, NodeSpec]:
        nodes = self._mapping("nodes")
        if not nodes and isinstance(self._data.get("nodes", {}), dict):
            span = self._document.span("nodes", key=True)
            help = "list them under 'nodes:', as in 'encoder: {use: encoder, in: batch.image}'"
            self.problems.append(Problem("E036", "a graph needs nodes", span, help=help))
        return {name: self._node(name) for name in nodes}

    def _node(self, name: str) -> NodeSpec:
        path = ("nodes", name)
        if not is_node_name(name):
            title = f"'{name[:80]}' can't name a node"
            expected = "small letters, digits and '_'; not 'batch', not a word of Python"
            span = self._document.span(*path, key=True)
            self.problems.append(Problem("E033", title, span, expected=expected))
        node = self._mapping(*path)
        special = ("use", "in", "train", "weights", "of")
        return NodeSpec(
            name=name,
            use=self._use(path, node),
            inputs=self._inputs((*path, "in"), node["in"]) if "in" in node else {},
            settings={key: value for key, value in node.items() if key not in special},
            train=self._node_train(path, node),
            weights=self._weights(path, node),
            of=self._of(path, node),
        )

    def _use(self, path: Path, node: Mapping[str, object]) -> str:
        use = node.get("use")
        if isinstance(use, str):
            return "" if is_unresolved(use) else use
        if use is not None:
            self._wrong((*path, "use"), "text", use)
        elif isinstance(self._data["nodes"][path[1]], dict):
            span = self._document.span(*path, key=True)
            title = f"the node '{path[1]}' does not say what it is"
            help = "add 'use: TYPE'; `sslgraph nodes` lists the types"
            self.problems.append(Problem("E034", title, span, help=help))
        return ""

    def _inputs(self, path: Path, value: object) -> dict[str, tuple[Reference, ...]]:
        if isinstance(value, dict):
            return {port: self._references((*path, port), child) for port, child in value.items()}
        return {"": self._references(path, value)}

    def _references(self, path: Path, value: object) -> tuple[Reference, ...]:
        if not isinstance(value, list):
            found = self._reference(path, value)
            return (found,) if found else ()
        items = [self._reference((*path, place), item) for place, item in enumerate(value)]
        if not items:
            span = self._document.span(*path)
            title = "an empty list of references"
            self.problems.append(Problem("E035", title, span, help=_REFERENCE_HELP))
        return tuple(item for item in items if item) if all(items) else ()

    def _reference(self, path: Path, value: object) -> Reference | None:
        found = Reference.parse(value, path) if isinstance(value, str) else None
        if found is None and not is_unresolved(value):
            self.problems.append(
                Problem(
                    "E035",
                    "not a reference to a node's output",
                    self._document.span(*path),
                    got="" if isinstance(value, str) else kind(value),
                    help=_REFERENCE_HELP,
                )
            )
        return found

    def _node_train(self, path: Path, node: Mapping[str, object]) -> NodeTrain | None:
        if "train" not in node:
            return None
        return self._model(NodeTrain, (*path, "train"), "training setting of a node")

    def _weights(self, path: Path, node: Mapping[str, object]) -> str | None:
        weights = node.get("weights")
        if weights is None or isinstance(weights, str):
            return weights
        self._wrong((*path, "weights"), "text", weights)
        return None

    def _of(self, path: Path, node: Mapping[str, object]) -> tuple[str, ...]:
        if "of" not in node:
            return ()
        value, place = node["of"], (*path, "of")
        chain = value if isinstance(value, list) else [value]
        paths = [(*place, i) for i in range(len(chain))] if isinstance(value, list) else [place]
        found = [self._reference(p, item) for p, item in zip(paths, chain, strict=True)]
        for reference in found:
            if reference and reference.sliced:
                span = self._document.span(*reference.path)
                title = "a node is meant here, not some of its views"
                self.problems.append(Problem("E035", title, span, expected=reference.node))
        return tuple(item.text for item in found if item) if all(found) else ()

    def _minimize(self) -> dict[str, float | Schedule]:
        weights: dict[str, float | Schedule] = {}
        for name, value in self._mapping("minimize").items():
            try:
                weights[name] = _NUMBER.validate_python(value)
            except ValidationError as error:
                path = ("minimize", name)
                self.problems += problems_of(
                    error, self._document, path, Schedule, codes=_CODES, noun="key"
                )
        return weights

    def _outputs(self) -> dict[str, Reference]:
        found = {
            name: self._reference(("outputs", name), value)
            for name, value in self._mapping("outputs").items()
        }
        return {name: reference for name, reference in found.items() if reference}
