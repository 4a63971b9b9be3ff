"""Small graphs round one node, and what the proof of a property says of them."""

from __future__ import annotations

from typing import Any

from sslgraph.proving import Result, prove
from sslgraph.proving.pool import OnRanks
from sslgraph.spec import Graph
from tests import toys
from tests.proving import broken

assert broken  # its types are registered when it is imported

Nodes = dict[str, dict[str, Any]]


def with_node(use: str, **settings: Any) -> Graph:
    """Two views through a layer and a node of this type, into a loss with negatives."""
    nodes: Nodes = {
        **toys.TWO_VIEWS,
        "odd": {"use": use, "in": "head", **settings},
        "loss": {"use": "nt_xent", "in": "odd"},
    }
    return toys.graph(nodes, outputs={"embedding": "odd"})


def with_loss(use: str, **settings: Any) -> Graph:
    """Two views through a layer into a loss of one input."""
    return toys.graph({**toys.TWO_VIEWS, "loss": {"use": use, "in": "head", **settings}})


def with_pairs(use: str, of: str = "toy_scale", **settings: Any) -> Graph:
    """Two views through layers, compared with what a stop lets through of them."""
    return toys.graph(
        {
            **toys.TWO_VIEWS,
            "still": {"use": "stop_grad", "in": "head"},
            "guess": {"use": of, "in": "head"},
            "loss": {"use": use, "in": {"prediction": "guess", "target": "still"}, **settings},
        }
    )


def with_two(use: str, **settings: Any) -> Graph:
    """Two views through a layer into a loss that compares the one with the other."""
    both = {"x": "head.0", "y": "head.1"}
    return toys.graph({**toys.TWO_VIEWS, "loss": {"use": use, "in": both, **settings}})


def with_mask(use: str) -> Graph:
    """Views of which half is hidden."""
    return toys.graph(
        {
            "views": {"use": "toy_noise", "in": "batch.image"},
            "mask": {"use": "broken_quarters", "in": "views"},
            "encoder": {"use": use, "in": {"image": "views", "mask": "mask"}},
            "loss": {"use": "nt_xent", "in": "encoder"},
        }
    )


def with_copy(use: str) -> Graph:
    """What one view gives is to be what a slow copy gives of the other, and unlike other images."""
    return toys.graph(
        {
            **toys.TWO_VIEWS,
            "slow": {
                "use": use,
                "of": ["pixels", "head"],
                "in": "views",
                "momentum": {"linear": [0.5, 0.9]},
            },
            "slower": {"use": "ema", "of": ["slow.pixels", "slow.head"], "in": "views"},
            "loss": {"use": "info_nce", "in": {"query": "head", "positive": "slow"}},
            "far": {"use": "toy_pull", "in": {"a": "head", "b": "slower"}},
        },
        {"loss": 1.0, "far": 1.0},
    )


def with_memory(use: str) -> Graph:
    """Unlike what a memory holds."""
    return toys.graph(
        {
            **toys.TWO_VIEWS,
            "memory": {"use": use, "in": "head"},
            "loss": {"use": "toy_far", "in": {"a": "head", "items": "memory"}},
        }
    )


def one(graph: Graph, name: str, on_ranks: OnRanks | None = None) -> Result:
    """The result of one property."""
    (result,) = prove(graph, [name], on_ranks=on_ranks)
    return result


def failure(graph: Graph, name: str, on_ranks: OnRanks | None = None) -> str:
    """What a property that fails says, and the node's place."""
    result = one(graph, name, on_ranks)
    assert result.status == "failed", result
    return result.found


def passes(graph: Graph, name: str, on_ranks: OnRanks | None = None) -> str:
    """What a property that holds has found."""
    result = one(graph, name, on_ranks)
    assert result.status == "passed", result
    return result.found
