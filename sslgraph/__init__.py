"""Visual self-supervised learning methods as dataflow graphs in YAML.

Every public name is imported when it is first used (PEP 562): `import sslgraph` loads nothing else,
so the commands that only read files answer at once and need no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sslgraph.checking import check
    from sslgraph.comparing import Difference, diff
    from sslgraph.drawn import draw
    from sslgraph.errors import GraphError, Problem, Span
    from sslgraph.loading import load, read
    from sslgraph.method import Method
    from sslgraph.method import compile_graph as compile
    from sslgraph.nodes.base import Node
    from sslgraph.nodes.base import make_node as node
    from sslgraph.ports import In, Out
    from sslgraph.spec import Graph

__version__ = "0.1.0"

__all__ = [
    "Difference",
    "Graph",
    "GraphError",
    "In",
    "Method",
    "Node",
    "Out",
    "Problem",
    "Span",
    "__version__",
    "check",
    "compile",
    "diff",
    "draw",
    "load",
    "node",
    "read",
]

# Public name -> the module that holds it, and its name there where that differs. No module or
# folder of the package may bear one of these names: importing it would hide the public one.
_HOMES = {
    "Difference": "sslgraph.comparing",
    "Graph": "sslgraph.spec",
    "GraphError": "sslgraph.errors",
    "In": "sslgraph.ports",
    "Method": "sslgraph.method",
    "Node": "sslgraph.nodes.base",
    "Out": "sslgraph.ports",
    "Problem": "sslgraph.errors",
    "Span": "sslgraph.errors",
    "check": "sslgraph.checking",
    "compile": "sslgraph.method:compile_graph",
    "diff": "sslgraph.comparing",
    "draw": "sslgraph.drawn",
    "load": "sslgraph.loading",
    "node": "sslgraph.nodes.base:make_node",
    "read": "sslgraph.loading",
}


if not TYPE_CHECKING:  # else a type checker would take any name for a public one

    def __getattr__(name: str) -> object:
        """Import a public name at its first use.

        Raises:
            AttributeError: The package has no such public name.
        """
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, inner = home.partition(":")
        value: object = getattr(import_module(module), inner or name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, also those not imported yet."""
    return sorted({*globals(), *__all__})
