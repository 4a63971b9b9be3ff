"""The proof of a graph: every property in order, as results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from sslgraph.errors import GraphError, did_you_mean
from sslgraph.proving.accumulation import accumulation
from sslgraph.proving.case import Case
from sslgraph.proving.copies import copies
from sslgraph.proving.evaluation import evaluation, randomness
from sslgraph.proving.images import image_order
from sslgraph.proving.levels import loss_levels
from sslgraph.proving.masks import masked_places
from sslgraph.proving.memory import reads_before_writes
from sslgraph.proving.numbers import autocast, compiled
from sslgraph.proving.pool import OnRanks, Pool
from sslgraph.proving.processes import processes
from sslgraph.proving.result import BrokenError, InapplicableError, Result
from sslgraph.proving.saved import state_dict, walked
from sslgraph.proving.stops import stopped_gradients, trained_gradients
from sslgraph.proving.views import view_order, view_pairs
from sslgraph.spec import Graph

Property = Callable[[Case], str]

PROPERTIES: Mapping[str, Property] = {
    "stopped_gradients": stopped_gradients,
    "trained_gradients": trained_gradients,
    "image_order": image_order,
    "view_order": view_order,
    "view_pairs": view_pairs,
    "masked_places": masked_places,
    "copies": copies,
    "reads_before_writes": reads_before_writes,
    "accumulation": accumulation,
    "processes": processes,
    "loss_levels": loss_levels,
    "randomness": randomness,
    "evaluation": evaluation,
    "state_dict": state_dict,
    "walked": walked,
    "autocast": autocast,
    "compiled": compiled,
}
"""Name of each property -> its proof: gives the figure found, or raises."""


def chosen(names: Iterable[str] | None = None) -> list[str]:
    """The properties to prove, in order; all if None.

    Raises:
        ValueError: There is no property of a name.
    """
    wanted = list(PROPERTIES) if names is None else list(names)
    for name in wanted:
        if name not in PROPERTIES:
            hint = did_you_mean(name, PROPERTIES, show="properties")
            raise ValueError(f"no property '{name}': {hint}")
    return [name for name in PROPERTIES if name in wanted]


def prove(
    graph: Graph,
    properties: Iterable[str] | None = None,
    *,
    on_ranks: OnRanks | None = None,
    begun: Callable[[str], None] | None = None,
    done: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Prove the wiring of a graph on small sizes, in float64 on the CPU.

    Args:
        graph: The graph, as small as a preset or `set` makes it.
        properties: Names of properties; all if None.
        on_ranks: Runs functions in two processes, such as a `Pool`; None starts one for this proof.
        begun: Called with the name of each property before its proof.
        done: Called with each result.

    Returns:
        One result a property, in order; no property is left out.

    Raises:
        GraphError: The graph has errors.
        ProofError: It is too large for a CPU.
        ValueError: There is no property of a name.
    """
    wanted = chosen(properties)
    case = Case.of(graph, on_ranks)
    with ExitStack() as stack:
        if on_ranks is None and processes.__name__ in wanted:
            case.on_ranks = stack.enter_context(Pool())  # starts while other properties are proved
        return [_shown(case, name, begun, done) for name in wanted]


def _shown(
    case: Case,
    name: str,
    begun: Callable[[str], None] | None,
    done: Callable[[Result], None] | None,
) -> Result:
    if begun:
        begun(name)
    result = proved(case, name)
    if done:
        done(result)
    return result


def proved(case: Case, name: str) -> Result:
    """The result of one property; whatever stops its proof is a failure, never a pass."""
    start = time.perf_counter()
    place = ""
    try:
        status, found = "passed", PROPERTIES[name](case)
    except InapplicableError as reason:
        status, found = "does_not_apply", str(reason)
    except BrokenError as broken:
        status, found, place = "failed", str(broken), case.place(broken.node)
    except GraphError as failure:
        status, found = "failed", failure.problems[0].title
        place = str(failure.problems[0].span)
    except Exception as failure:  # of a node; its text and where it happened are the finding
        status, found = "failed", _told(failure)
    return Result(name, status, found, place, time.perf_counter() - start)  # type: ignore[arg-type]


def _told(failure: Exception) -> str:
    lines = str(failure).strip().splitlines()
    text = f"{type(failure).__name__}: {lines[0] if lines else 'without a text'}"
    notes = [note.splitlines()[0] for note in getattr(failure, "__notes__", ())]
    return "; ".join(["it could not be run", text, *notes])
