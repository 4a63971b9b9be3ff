"""What a graph says, as data: nodes and references between them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, PositiveInt

from sslgraph.errors import Problem
from sslgraph.schedules import Number
from sslgraph.source import Document, Path
from sslgraph.train_spec import NodeTrain, Spec, TrainSpec

_REFERENCE = re.compile(
    r"([a-z][a-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*)*)(?:\.([0-9]{1,6}|[0-9]{0,6}:[0-9]{0,6}))?"
)


def is_node_name(name: str) -> bool:
    """Whether a node may be called so; `batch` is what the data gives."""
    plain = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
    return plain and name != "batch" and not keyword.iskeyword(name)


@dataclass(frozen=True)
class Reference:
    """A wire's beginning: an output of a node, all its views or some of them.

    Args:
        node: Name of the node, or `batch`.
        port: Output port; for a member of a chain with its path (`encoder.tokens`); None: the main
            one.
        start: First view; None: from the first one.
        stop: View after the last one; None: to the last one.
        path: Where the reference stands in the document.
        text: As it was written.
    """

    node: str
    port: str | None
    start: int | None
    stop: int | None
    path: Path
    text: str

    @property
    def sliced(self) -> bool:
        """Whether it takes some views only."""
        return self.start is not None or self.stop is not None

    @classmethod
    def parse(cls, text: str, path: Path) -> Reference | None:
        """The reference that `text` spells, None where it is not one."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return None
        node, port, views = match.groups()
        start, stop = _views(views or "")
        if views is not None and (start, stop) == (None, None):
            return None
        if start is not None and stop is not None and start >= stop:
            return None
        return cls(node, port[1:] or None, start, stop, path, text)


def _views(text: str) -> tuple[int | None, int | None]:
    """The range that `3`, `0:2`, `1:` or `:2` stands for."""
    first, colon, last = text.partition(":")
    start = int(first) if first else None
    if not colon:
        return start, None if start is None else start + 1
    return start, int(last) if last else None


class BatchSpec(Spec):
    """What `batch` holds."""

    channels: PositiveInt = 3


class DataSpec(Spec):
    """The `data:` block: streams of samples by name."""

    batch: BatchSpec = Field(default_factory=BatchSpec)


@dataclass(frozen=True, eq=False)
class NodeSpec:
    """One node as it was written; `use` and `settings` are not checked yet.

    Args:
        name: Its key under `nodes`.
        use: Name of the node type; empty where that is missing, which was reported.
        inputs: References by port; the port `""` is the bare form without a name. No references
            where one of them is malformed, which was reported.
        settings: Every other key, variables replaced.
        train: Its own training settings, None if it has none.
        weights: Where its first weights come from.
        of: Node or chain of nodes that it repeats.
    """

    name: str
    use: str
    inputs: dict[str, tuple[Reference, ...]]
    settings: dict[str, Any]
    train: NodeTrain | None = None
    weights: str | None = None
    of: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph as it was written, with what is wrong in it so far.

    Args:
        document: Its data and where each part stands.
        name: Short name, fit for a folder.
        title: The method's name as papers write it.
        paper: Address of the paper.
        family: Group of methods.
        summary: One sentence.
        nodes: In the order of the text.
        minimize: Weight of each loss node.
        outputs: What probes, export and pictures use.
        train: The run.
        data: What the data gives.
        presets: Names of those there are.
        preset: The one in force.
        problems: What reading found; an error among them stops compiling.
    """

    document: Document
    name: str
    title: str
    paper: str
    family: str
    summary: str
    nodes: Mapping[str, NodeSpec]
    minimize: Mapping[str, Number]
    outputs: Mapping[str, Reference]
    train: TrainSpec
    data: DataSpec
    presets: tuple[str, ...]
    preset: str | None
    problems: tuple[Problem, ...]
