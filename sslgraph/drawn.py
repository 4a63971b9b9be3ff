"""`draw`: a graph as a picture, with the sizes that the checks find."""

from __future__ import annotations

from pathlib import Path

from sslgraph.checking import Report, report
from sslgraph.comparing import Difference
from sslgraph.drawing import Picture, format_of, picture, render, union
from sslgraph.errors import GraphError, errors_of
from sslgraph.files import write_bytes
from sslgraph.plan import examine, plan_of
from sslgraph.spec import Graph


def draw(graph: Graph, path: str | Path, *, format: str | None = None, sizes: bool = True) -> None:
    """Draw a graph into a file: svg, png, pdf, dot or Mermaid (.mmd).

    An svg or png also holds the graph's YAML; `sslgraph.drawing.extract` reads it back.

    Args:
        graph: The graph.
        path: The file; its suffix says the format unless `format` does.
        format: One of `sslgraph.drawing.FORMATS`.
        sizes: Whether to show shapes and numbers of parameters, which imports torch. Where the
            graph has a mistake in its sizes, what is known is shown.

    Raises:
        GraphError: Settings or wires are wrong; all problems are in it.
        DrawingError: There is no such format, or Graphviz is missing or fails.
        WriteError: The file can't be written.
    """
    chosen = format or format_of(path)
    write_bytes(Path(path), render(picture_of(graph, sizes=sizes), chosen))


def picture_of(graph: Graph, *, sizes: bool = True) -> Picture:
    """The picture of a graph, for `sslgraph.drawing.render`; takes and raises what `draw` does."""
    return reported(report(graph, sizes=sizes))


def picture_of_difference(difference: Difference, graph_a: Graph, graph_b: Graph) -> Picture:
    """One picture of two graphs, without sizes.

    Args:
        difference: What `sslgraph.diff` found.
        graph_a: The first graph.
        graph_b: The second graph.

    Raises:
        GraphError: Settings or wires of one of them are wrong; the problems of both are in it.
    """
    (wiring_a, wrong_a), (wiring_b, wrong_b) = examine(graph_a), examine(graph_b)
    wrong = errors_of([*wrong_a, *wrong_b])
    if wrong:
        raise GraphError(tuple(dict.fromkeys(wrong)))
    return union(difference, plan_of(wiring_a), plan_of(wiring_b))


def reported(found: Report) -> Picture:
    """The picture of a graph that was checked already.

    Raises:
        GraphError: The report has no plan.
    """
    if found.plan is None:
        raise GraphError(tuple(found.problems))
    if found.sizes is None:
        return picture(found.plan)
    from sslgraph.check_sizes import spelled

    shapes = {port: spelled(shape) for port, shape in found.sizes.shapes.items()}
    return picture(found.plan, shapes, found.sizes.parameters)
