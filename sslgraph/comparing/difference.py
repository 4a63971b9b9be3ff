"""What differs between two graphs, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sslgraph.source import Path


@dataclass(frozen=True)
class Value:
    """A value on one side.

    Args:
        data: The value as it is written, variables replaced.
        default: Whether it is not written: it is what the node type takes by itself.
    """

    data: object
    default: bool = False


@dataclass(frozen=True)
class SettingChange:
    """A value that differs.

    Args:
        path: The way to it in the graph, such as `("nodes", "loss", "temperature")`: with the names
            and places of the second graph, of the first one where the second has no such value.
        before: In the first graph, None where it has no such value.
        after: In the second graph, None where it has no such value.
    """

    path: Path
    before: Value | None
    after: Value | None

    @property
    def where(self) -> str:
        """The path in one word: `loss.temperature`, `train.lr.base`."""
        return ".".join(map(str, self.path[1:] if self.path[0] == "nodes" else self.path))


@dataclass(frozen=True)
class WireChange:
    """An input that is fed by something else.

    Args:
        node: Name of the node in the second graph.
        port: The input; `in` where it is not known which one a bare reference means.
        before: References in the first graph, none where the input was not plugged.
        after: References in the second graph, none where the input is not plugged.
    """

    node: str
    port: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def where(self) -> str:
        """Node and input in one word: `projector.x`."""
        return f"{self.node}.{self.port}"


@dataclass(frozen=True)
class OneSided:
    """A node that only one of the graphs has.

    Args:
        name: Its name.
        use: Its type.
        written: Its other keys, variables replaced.
    """

    name: str
    use: str
    written: Mapping[str, object]


@dataclass(frozen=True)
class Renamed:
    """A node that has another name and is else the same.

    Args:
        before: Its name in the first graph.
        after: Its name in the second graph.
        use: Its type.
    """

    before: str
    after: str
    use: str


@dataclass(frozen=True)
class Difference:
    """What differs between two graphs; `str` gives the summary that `sslgraph diff` prints.

    Args:
        a: What the first graph is called.
        b: What the second graph is called.
        added: Nodes of the second graph alone, in its order.
        removed: Nodes of the first graph alone, in its order.
        renamed: Nodes that differ in nothing but their name.
        wires: Inputs of nodes in both graphs that are fed by something else.
        settings: Other values of nodes in both graphs.
        run: Values of `data`, `minimize`, `outputs` and `train`.
        literal: Whether both were compared as they are written, since types, settings or
            references of one of them are wrong.
    """

    a: str
    b: str
    added: tuple[OneSided, ...]
    removed: tuple[OneSided, ...]
    renamed: tuple[Renamed, ...]
    wires: tuple[WireChange, ...]
    settings: tuple[SettingChange, ...]
    run: tuple[SettingChange, ...]
    literal: bool = False

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        parts = (self.added, self.removed, self.renamed, self.wires, self.settings, self.run)
        return not any(parts)

    def as_data(self) -> dict[str, Any]:
        """For other programs: plain data, paths as words."""
        data = asdict(self)
        for group in ("settings", "run"):
            for change, entry in zip(getattr(self, group), data[group], strict=True):
                entry["path"] = ".".join(map(str, change.path))
        return {"a": data.pop("a"), "b": data.pop("b"), "equal": self.equal, **data}

    def __str__(self) -> str:
        from sslgraph.comparing.text import summary

        return "\n".join(str(line) for line in summary(self))
