"""Training settings that name nodes, or that a node's type can't have.

Codes: E330 clipping of an unknown node - E331 a node clipped twice - W332 clipping of a node that
has no gradients - E333 recomputing a node for which it makes no sense
"""

from __future__ import annotations

from sslgraph.checks.members import Bound
from sslgraph.checks.references import Wiring
from sslgraph.errors import Problem, did_you_mean
from sslgraph.ports import Declaration
from sslgraph.schedules import Learned
from sslgraph.source import Path


def review(wiring: Wiring) -> list[Problem]:
    """Problems of `train:` on the run and on nodes, as far as they need no sizes."""
    return [*_clipping(wiring), *_recomputing(wiring)]


def _clipping(wiring: Wiring) -> list[Problem]:
    clip = wiring.graph.train.clip
    if clip is None or isinstance(clip.scope, str):
        return []
    problems: list[Problem] = []
    first: dict[str, Path] = {}
    for number, names in enumerate(clip.scope):
        for place, name in enumerate(names):
            path: Path = ("train", "clip", "scope", number, place)
            problem = _clipped(wiring, name, path, first.get(name))
            problems += [problem] if problem else []
            first.setdefault(name, path)
    return problems


def _clipped(wiring: Wiring, name: str, path: Path, before: Path | None) -> Problem | None:
    """What is wrong with one name of a list, where `before` is the same name's first place."""
    document, nodes = wiring.graph.document, wiring.graph.nodes
    span = document.span(*path)
    if name not in nodes:
        hint = did_you_mean(name, nodes, show="nodes")
        return Problem("E330", f"no node named '{name[:80]}' to clip", span, under=hint)
    if before is not None:
        return Problem(
            "E331",
            f"{name} is clipped twice",
            span,
            notes=(f"first at {document.span(*before)}",),
            help="name it in one list: each gradient belongs to one norm",
        )
    bound, train = wiring.nodes.get(name), nodes[name].train
    if (train and not train.enabled) or (bound and not _learns(bound)):
        return Problem(
            "W332",
            f"{name} has no gradients of its own to clip",
            span,
            help="take it out of the list; what is listed are nodes with weights that train",
            severity="warning",
        )
    return None


def _learns(bound: Bound) -> bool:
    """Whether a node has something to train, weights or a learned number, as far as is known."""
    if bound.declaration.learns or bound.config is None:
        return True
    return any(isinstance(value, Learned) for value in vars(bound.config).values())


def _recomputing(wiring: Wiring) -> list[Problem]:
    problems = []
    for name, spec in wiring.graph.nodes.items():
        bound = wiring.nodes.get(name)
        if bound is None or spec.train is None or not spec.train.recompute:
            continue
        reason = _against_recomputing(bound.declaration)
        if reason:
            span = wiring.graph.document.span("nodes", name, "train", "recompute", key=True)
            title = f"{name} can't be computed again in the backward pass"
            help = "remove 'recompute'; it is for nodes such as encoders, which keep much memory"
            problems.append(Problem("E333", title, span, notes=(reason,), help=help))
    return problems


def _against_recomputing(declared: Declaration) -> str:
    """Why a type of node runs once only; nothing where it may run twice."""
    reasons = {
        "writes state, and a second run of it would read other values": bool(declared.writes),
        "draws at random, and draws are made once a step": declared.draws,
        "lets no gradient pass, so it keeps no activations for one": declared.stops_gradient,
        "is a loss: what it keeps is small": declared.is_loss,
    }
    return next((f"{declared.use} {reason}" for reason, holds in reasons.items() if holds), "")
