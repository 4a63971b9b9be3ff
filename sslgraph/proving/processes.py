"""Two processes with half a batch each against one process with the whole."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sslgraph.method import Method
from sslgraph.proving.accumulation import told_masks, with_masks
from sslgraph.proving.case import Case
from sslgraph.proving.compare import (
    NOISE,
    TOLERANCE,
    Gradients,
    apart,
    descend,
    furthest,
    gradients,
)
from sslgraph.proving.given import Given, fed
from sslgraph.proving.halves import Buffers, halve_local, shuffled_buffers
from sslgraph.proving.pool import RANKS, Pool
from sslgraph.proving.result import BrokenError, InapplicableError, listed
from sslgraph.registry import load_file

_STEPS = 2
_RATE = 0.01
_FILES = "sslgraph_nodes_"  # modules of node types that were given as files


@dataclass
class _Trained:
    """What some steps gave.

    Args:
        terms: Losses of each step, the mean over processes.
        gradients: Gradients of each step, the mean over processes.
        buffers: Buffers after the last step.
    """

    terms: list[dict[str, Tensor]]
    gradients: list[Gradients]
    buffers: Buffers


def processes(case: Case) -> str:
    """Two processes with half the images each give the losses, gradients and state of one.

    Two steps over gloo, so that what a memory holds counts too. Nodes with statistics of their own
    process see half the images in the reference, as `halve_local` says.
    """
    if case.batch % RANKS:
        raise InapplicableError(f"{case.batch} images can't be halved")
    method = case.method()
    buffers, local = halve_local(method)
    batches = [with_masks(case, case.given(number)) for number in range(_STEPS)]
    expected = _train(method, batches, lambda value: value)
    halves = [given.halves() for given in batches]
    payload = pickle.dumps((case.method(), halves))
    if case.on_ranks is None:
        with Pool() as pool:
            answers = pool(run_rank, _homes(case), payload)
    else:
        answers = case.on_ranks(run_rank, _homes(case), payload)
    found: list[_Trained] = [pickle.loads(answer) for answer in answers]
    worst = _compare_steps(case, expected, found[0])
    worst = max(worst, _compare_state(buffers(), found, shuffled_buffers(method)))
    note = f"; each with statistics of its own: {listed(local)}" if local else ""
    note += told_masks(case)
    return f"{RANKS} x {case.batch // RANKS} images, {_STEPS} steps, apart by {worst:.0e}{note}"


def run_rank(rank: int, homes: Sequence[tuple[str, str]], payload: bytes) -> bytes:
    """In one of the processes: train on its half of each batch.

    Args:
        rank: Of this process.
        homes: Modules of node types with their files, which are imported first.
        payload: The method and the halves, pickled.
    """
    for name, path in homes:
        if name.startswith(_FILES):
            load_file(path)
        else:
            importlib.import_module(name)
    method, halves = pickle.loads(payload)
    return pickle.dumps(_train(method, [step[rank] for step in halves], _mean))


def _mean(value: Tensor) -> Tensor:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / RANKS


def _train(
    method: Method, batches: Sequence[Given], over_ranks: Callable[[Tensor], Tensor]
) -> _Trained:
    done = _Trained([], [], {})
    for given in batches:
        method.skip_step()
        with fed(method, given.views):
            output = method(dict(given.data))
        raw = gradients(method, output.loss)
        found = {n: None if g is None else over_ranks(g) for n, g in raw.items()}
        done.gradients.append(found)
        done.terms.append({n: over_ranks(term.detach()) for n, term in output.terms.items()})
        descend(method, found, _RATE)
        method.after_step()
    done.buffers = {name: b.detach().clone() for name, b in method.nodes.named_buffers()}
    return done


def _homes(case: Case) -> list[tuple[str, str]]:
    """The modules of all node types, with their files."""
    modules = dict.fromkeys(
        declared.module.__module__
        for step in case.plan.steps
        for declared in (step.declaration, *(m.declaration for m in step.members))
    )
    return [(name, str(getattr(sys.modules[name], "__file__", ""))) for name in modules]


def _compare_steps(case: Case, expected: _Trained, found: _Trained) -> float:
    """How far apart losses and gradients are."""
    worst = 0.0
    for step in range(_STEPS):
        for name, term in expected.terms[step].items():
            other = found.terms[step][name]
            if not apart(term, other) <= TOLERANCE:
                raise BrokenError(
                    f"{name} of step {step + 1} is {float(other):.7g} on {RANKS} processes and "
                    f"{float(term):.7g} on one",
                    case.plan.losses[name][0],
                )
        difference, name = furthest(expected.gradients[step], found.gradients[step])
        if not difference <= TOLERANCE:
            raise BrokenError(
                f"the gradient of {name} in step {step + 1} is off by {difference:.1e} on "
                f"{RANKS} processes",
                name.partition(".")[0],
            )
        worst = max(worst, difference)
    return worst


def _compare_state(expected: list[Buffers], found: list[_Trained], in_the_mean: set[str]) -> float:
    """How far apart the buffers of each process are from those that it should have."""
    worst = 0.0
    for rank, buffers in enumerate(expected):
        scales = _scales(buffers)
        for name, buffer in buffers.items():
            own = found[rank].buffers[name]
            if name in in_the_mean:
                own = torch.stack([each.buffers[name].double() for each in found]).mean(0)
            difference = apart(buffer, own, scales.get(name.partition(".")[0], 0.0))
            if not difference <= TOLERANCE:
                raise BrokenError(
                    f"{name} of process {rank} is off by {difference:.1e} after {_STEPS} steps",
                    name.partition(".")[0],
                )
            worst = max(worst, difference)
    return worst


def _scales(buffers: Buffers) -> dict[str, float]:
    """For each node what is rounding beside its largest value, such as a mean that is 0."""
    found: dict[str, float] = {}
    for name, buffer in buffers.items():
        if buffer.is_floating_point() and buffer.numel():
            node = name.partition(".")[0]
            found[node] = max(found.get(node, 0.0), float(buffer.abs().max()) * NOISE)
    return found
