"""Collapse review: what keeps a loss from being won by giving every image the same features.

A loss that draws two things together is at its floor when both are constant. That matters where
both depend on trained weights. Published methods keep away from it by one of

- negatives, a variance, decorrelation or entropy term, in the loss or in another one that trains
  the same nodes; a loss against something fixed (pixels, labels, a frozen model) is one too,
- whitening or balanced assignment on a side,
- a target without gradient and a predictor on the prediction side alone (BYOL, SimSiam),
- a slow copy as the target, centred and sharpened (DINO).

Types say themselves what they do, by `Declaration.guards`; no type is known by its name here.

Codes: W501 nothing prevents collapse - W502 the gradient goes into the target side alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sslgraph.checks.gradients import Gradients, listed
from sslgraph.checks.references import DATA, Wiring
from sslgraph.errors import Problem

SPREADS = frozenset({"negatives", "variance", "decorrelation", "entropy", "whitening", "balance"})
"""What suffices alone: on a loss, or on a side of one."""

WORDS = SPREADS | {"centering", "sharpening", "asymmetry"}
"""What a type may say that it does against collapse; asymmetry is that of a predictor."""

_UNSEEN = frozenset({"mask", "weight", "index"})
"""Kinds that say where and how much a loss compares, not what."""

_RUN = "such a run's loss falls to its floor while kNN stays at chance"


@dataclass(frozen=True)
class Side:
    """One of the two inputs that a loss draws together.

    Args:
        port: The input.
        moving: The nodes on whose trained weights its values depend.
        trained: Those of them that get a gradient through it.
        words: What its nodes do against collapse, and which nodes do.
        copies: The slow copies among its nodes.
        kinds: The kinds that it carries.
    """

    port: str
    moving: frozenset[str]
    trained: frozenset[str]
    words: Mapping[str, str]
    copies: tuple[str, ...]
    kinds: frozenset[str]


def review(wiring: Wiring, *, sound: bool) -> list[Problem]:
    """Warnings about the losses of a graph.

    Args:
        wiring: The wiring.
        sound: Whether it has no errors; else nothing is said.
    """
    if not sound:
        return []
    gradients = Gradients.of(wiring)
    problems: list[Problem] = []
    for name in gradients.losses:
        ports = _drawn_together(wiring, name)
        if not ports:
            continue
        first, second = (_side(wiring, gradients, name, port) for port in ports)
        if second.trained and not first.trained:
            # Negatives push apart whichever side learns; anchors may be memories (NNCLR).
            if first.copies or _guard(wiring, name) not in SPREADS:
                problems.append(_swapped(wiring, gradients, name, first, second))
            first, second = second, first
        if first.trained and second.moving and not _spread(wiring, gradients, name, first, second):
            problems += _asymmetric(wiring, gradients, name, first, second)
    return problems


def _drawn_together(wiring: Wiring, loss: str) -> tuple[str, ...]:
    """Two inputs of a loss, or one twice: its views where the second is optional and unplugged."""
    declared = wiring.nodes[loss].declaration
    ports = declared.attracts
    if not ports or ports[0] not in wiring.inputs[loss]:
        return ()
    if ports[1] in wiring.inputs[loss]:
        return ports
    return (ports[0], ports[0]) if declared.inputs[ports[1]].optional else ()


def _side(wiring: Wiring, gradients: Gradients, loss: str, port: str) -> Side:
    wires = wiring.inputs[loss][port]
    sources = [wire.source[0] for wire in wires if wire.source[0] != DATA]
    words: dict[str, list[str]] = {}
    copies = []
    for name in gradients.behind(sources):
        declared = wiring.nodes[name].declaration
        if declared.repeats and declared.writes:
            copies.append(name)
        own = declared.guards(wiring.nodes[name].config)
        for word in {own, *(m.declaration.guards(m.config) for m in declared.members)}:
            words.setdefault(word, []).append(gradients.called(name))
    return Side(
        port=port,
        moving=gradients.moving_before(sources),
        trained=gradients.trained_before(sources),
        words={word: listed(names) for word, names in words.items() if word},
        copies=tuple(copies),
        kinds=frozenset(wiring.kinds.get(wire.source, "") for wire in wires),
    )


def _spread(wiring: Wiring, gradients: Gradients, loss: str, first: Side, second: Side) -> bool:
    """Whether something keeps images apart, in this loss, another one or on a side."""
    if SPREADS & {_guard(wiring, loss), *first.words, *second.words}:
        return True
    trained = first.trained | second.trained
    return any(
        (_guard(wiring, other) in SPREADS or _fixed(wiring, gradients, other))
        and gradients.trained_before([other]) & trained
        for other in gradients.losses
        if other != loss
    )


def _guard(wiring: Wiring, name: str) -> str:
    bound = wiring.nodes[name]
    return bound.declaration.guards(bound.config)


def _fixed(wiring: Wiring, gradients: Gradients, loss: str) -> bool:
    """Whether a loss compares with something that no training moves."""
    for wires in wiring.inputs[loss].values():
        if any(wiring.kinds.get(wire.source, "") in _UNSEEN for wire in wires):
            continue
        if not gradients.moving_before(wire.source[0] for wire in wires):
            return True
    return False


def _asymmetric(
    wiring: Wiring, gradients: Gradients, loss: str, prediction: Side, target: Side
) -> list[Problem]:
    """A warning unless the sides differ as in a method that is known to work."""
    if not target.trained:
        if "asymmetry" in prediction.words and "asymmetry" not in target.words:
            return []
        if target.copies and {"centering", "sharpening"} <= target.words.keys():
            return []
    missing, notes, help = _missing(gradients, prediction, target)
    both = [name for name in wiring.nodes if name in prediction.trained & target.moving]
    names = listed(both or sorted(prediction.trained))
    verb = "are" if len(both) > 1 else "is"
    sides = f"{prediction.port} and {target.port}"
    if prediction.port == target.port:
        sides = f"the views of {prediction.port}"
    pull = f"{names} {verb} trained to make {sides} equal"
    return [
        Problem(
            "W501",
            f"{loss} may collapse: {missing}",
            wiring.graph.document.span("nodes", loss, key=True),
            notes=(*notes, f"{pull}; the same features for every image do that", _RUN),
            help=help,
            severity="warning",
        )
    ]


def _missing(
    gradients: Gradients, prediction: Side, target: Side
) -> tuple[str, tuple[str, ...], str]:
    """What is not there, what is, and what to do."""
    if prediction.port == target.port:
        help = "give its other terms a weight above 0, or use a loss with negatives (SimCLR)"
        return "nothing keeps images or dimensions apart", (), help
    predictor = prediction.words.get("asymmetry", "")
    scores = bool(target.kinds & {"logits", "probs"})
    if target.trained:
        there = f"{predictor} is on the side of {prediction.port}" if predictor else ""
        remedy = (
            f"take {target.port} from a slow copy (ema), centred and sharpened"
            if scores
            else f"take {target.port} from a slow copy (ema) or through stop_grad"
            + ("" if predictor else f", with a predictor before {prediction.port} alone")
        )
        help = f"{remedy}; or use a loss with negatives"
        return "its target gets a gradient too", (there,) if there else (), help
    there = f"the side of {target.port} gets no gradient, which alone does not prevent it"
    if predictor:
        help = f"take {target.port} from before the predictor"
        sides = f"{predictor} before {prediction.port}, {target.words['asymmetry']} before"
        return "a predictor is on both sides", (f"{sides} {target.port}",), help
    done = [word for word in ("centering", "sharpening") if word in target.words]
    if len(done) == 2:
        help = "take the target from a slow copy (ema) of the student, as DINO does"
        return "its target is centred and sharpened but no slow copy", (there,), help
    if done:
        lacks = {"centering": "sharpening", "sharpening": "centering"}[done[0]]
        end = "one prototype win every image"
        if lacks == "sharpening":
            end = "every image spread evenly over all prototypes"
        note = f"{target.words[done[0]]} alone lets {end}; {lacks} works against that"
        node = "center the logits first" if lacks == "centering" else "sharpen the centred logits"
        title = f"the target side has {done[0]} but no {lacks}"
        return title, (note,), f"{node} (DINO), or assign them evenly, as by sinkhorn (SwAV)"
    if scores:
        help = "center and sharpen the target's logits (DINO), or assign them evenly (SwAV)"
        return "its target is neither centred nor sharpened", (there,), help
    help = (
        f"put a predictor before {prediction.port} alone (BYOL, SimSiam), or use a loss with "
        "negatives (SimCLR, MoCo)"
    )
    return f"no predictor before its {prediction.port}", (there,), help


def _swapped(
    wiring: Wiring, gradients: Gradients, loss: str, prediction: Side, target: Side
) -> Problem:
    names = [name for name in wiring.nodes if name in target.trained]
    return Problem(
        "W502",
        f"{loss} trains through {target.port} alone, as if its inputs were swapped",
        wiring.graph.document.span("nodes", loss, "in"),
        expected=f"a gradient into {prediction.port}",
        got=f"a gradient into {target.port}, which trains {listed(names)}",
        notes=tuple(
            f"{gradients.called(name)} lets no gradient through" for name in prediction.copies
        ),
        help=f"swap what {prediction.port} and {target.port} are given, or rewire one of them",
        severity="warning",
    )
