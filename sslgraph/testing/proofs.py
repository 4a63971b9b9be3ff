"""Proofs and contracts as tests of pytest.

A test file of three lines proves a method and a node type, one test a property:

    from sslgraph.testing import node_tests, proof
    test_my_method = proof("my_method.yaml", nodes="my_nodes.py")
    test_my_node = node_tests("my_node", nodes="my_nodes.py")

A property that does not apply is a skipped test with the reason. Inside a test of one's own,
`prove(graph)` and `check_node(use)` raise an AssertionError that says what is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from sslgraph.loading import load
from sslgraph.proving import Case, OnRanks, Pool, Result, chosen, proved
from sslgraph.proving import prove as prove_graph
from sslgraph.registry import load_file
from sslgraph.spec import Graph
from sslgraph.testing.contract import PROPERTIES as CONTRACT
from sslgraph.testing.subject import Subject

Source = str | PathLike[str] | Mapping[str, object]
Paths = str | Path | Sequence[str | Path]

_SMALL = "tiny"


def small(
    source: Source, *, preset: str | None = None, set: Mapping[str, object] | None = None
) -> Graph:
    """The graph of a method, in its preset `tiny` where it has one and none is named.

    Args:
        source: Name of a shipped method, path of a YAML file, or the same as nested data.
        preset: Name of another preset.
        set: Values to lay over it, by path.

    Raises:
        GraphError: Something in it is wrong.
    """
    graph = load(source, preset=preset, set=set)
    if preset is None and _SMALL in graph.presets:
        return load(source, preset=_SMALL, set=set)
    return graph


def prove(
    graph: Graph | Source,
    properties: Iterable[str] | None = None,
    *,
    on_ranks: OnRanks | None = None,
) -> list[Result]:
    """Assert that a graph is wired as it says, as `sslgraph prove` does.

    Args:
        graph: A graph that was loaded, or what `small` takes.
        properties: Names of properties; all if None.
        on_ranks: Two processes to share, such as the fixture `sslgraph_processes`; None starts
            some.

    Returns:
        One result a property, passed or not applicable.

    Raises:
        AssertionError: Some fail; the text has a line for each.
        GraphError: The graph has errors.
    """
    found = graph if isinstance(graph, Graph) else small(graph)
    results = prove_graph(found, properties, on_ranks=on_ranks)
    failed = [str(result) for result in results if result.status == "failed"]
    if failed:
        raise AssertionError("\n".join([f"{found.name} is not wired as it says", *failed]))
    return results


def proof(
    source: Source,
    *,
    preset: str | None = None,
    set: Mapping[str, object] | None = None,
    nodes: Paths = (),
    properties: Iterable[str] | None = None,
) -> Callable[..., None]:
    """A test of pytest with one case a property of a method.

    Args:
        source: Name of a shipped method, path of a YAML file, or the same as nested data.
        preset: One of its presets; `tiny` where it has one and none is named.
        set: Values to lay over it, by path.
        nodes: Python files with node types of its own.
        properties: Names of properties; all if None.

    Returns:
        The test; give it a name that begins with `test_`.
    """
    import pytest

    @cache
    def case() -> Case:
        _register(nodes)
        return Case.of(small(source, preset=preset, set=set))

    @pytest.mark.parametrize("property", chosen(properties))
    def test(property: str, sslgraph_processes: Pool) -> None:
        case().on_ranks = sslgraph_processes
        result = proved(case(), property)
        if result.status == "does_not_apply":
            pytest.skip(f"does not apply: {result.found}")
        assert result.status == "passed", str(result)

    return test


def node_tests(
    use: str,
    *,
    nodes: Paths = (),
    axes: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Callable[..., None]:
    """A test of pytest with one case a property of a node type's contract.

    Args:
        use: The node type's name.
        nodes: Python files that declare it.
        axes: Sizes of its input axes, beside those of its `sample_axes`.
        settings: Settings in the place of its `sample`.

    Returns:
        The test; give it a name that begins with `test_`.
    """
    import pytest

    @pytest.mark.parametrize("property", list(CONTRACT))
    def test(property: str) -> None:
        _register(nodes)
        reason = CONTRACT[property](Subject.of(use, axes=axes, settings=settings))
        if reason:
            pytest.skip(f"does not apply: {reason}")

    return test


def _register(nodes: Paths) -> None:
    for path in [nodes] if isinstance(nodes, str | Path) else nodes:
        load_file(path)
