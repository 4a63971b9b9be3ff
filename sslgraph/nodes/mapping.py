"""Node modules by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from sslgraph.errors import did_you_mean
from sslgraph.nodes.base import Node


class Nodes(nn.Module):
    """The node modules by name: a mapping, whatever the names are."""

    def __init__(self, modules: Mapping[str, Node]) -> None:
        super().__init__()
        self._modules.update(modules)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":  # a node may be called so, which torch would refuse to set
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __getitem__(self, name: str) -> Node:
        node = self._modules.get(name)
        if node is None:
            hint = did_you_mean(name, self._modules, show="nodes")
            raise KeyError(f"no node named '{name}': {hint}")
        assert isinstance(node, Node)
        return node

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> Iterable[str]:
        """Names of the nodes, in the order in which they run."""
        return self._modules.keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and modules, in the order in which they run."""
        return self._modules.items()
