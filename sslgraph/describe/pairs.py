"""The pairs of views that losses compare, by the crops that the views came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sslgraph.describe.wording import plural
from sslgraph.plan import Plan, Step

_EACH_ITSELF = "the same view"
_FEW = 2
"""So many views are paired with the other ones by name; of more the list says so in words."""


@dataclass(frozen=True)
class LossPairs:
    """What one loss compares.

    Args:
        loss: The node.
        inputs: Its two inputs.
        count: How many pairs there are.
        rule: The setting that chose them, or ''.
        groups: Views of the first input and those of the second that each of them is paired with.
    """

    loss: str
    inputs: tuple[str, str]
    count: int
    rule: str
    groups: tuple[tuple[str, str], ...]

    @property
    def amount(self) -> str:
        """`18 pairs (cross)`."""
        return plural(self.count, "pair") + (f" ({self.rule})" if self.rule else "")


def loss_pairs(plan: Plan) -> list[LossPairs]:
    """The pairs of each loss of a plan that compares two inputs."""
    return [_of_loss(step) for step in plan.steps if step.declaration.is_loss and step.pairs]


def _of_loss(step: Step) -> LossPairs:
    first, second = list(step.declaration.reads)[:2]
    one = step.views[first]
    other = step.views.get(second, one)
    partners: dict[str, dict[str, None]] = {}
    for i, j in step.pairs:
        partners.setdefault(one[i], {})[other[j]] = None
    groups: dict[tuple[str, ...], list[str]] = {}
    for view, paired in partners.items():
        groups.setdefault(_in_words(view, tuple(paired), other), []).append(view)
    rule = getattr(step.config, "pairs", "")
    named = tuple((ranges(views), ranges(paired)) for paired, views in groups.items())
    return LossPairs(step.name, (first, second), len(step.pairs), rule, named)


def _in_words(view: str, paired: tuple[str, ...], there: tuple[str, ...]) -> tuple[str, ...]:
    """The partners of a view; where they are told by the view itself, in words for all views."""
    if paired == (view,):
        return (_EACH_ITSELF,) if len(set(there)) > 1 else paired
    others = set(there) - {view}
    if view in there and set(paired) == others and len(others) >= _FEW:
        return (f"the others of {ranges(dict.fromkeys(there))}",)
    return paired


def ranges(views: Iterable[str]) -> str:
    """Names of views, those in a row as in a reference: ``crops.local.0:8``."""
    return ", ".join(_runs(list(views)))


def _runs(names: list[str]) -> Iterator[str]:
    place = 0
    while place < len(names):
        stem, _, number = names[place].rpartition(".")
        count = 1
        if stem and number.isdigit():
            while names[place + count : place + count + 1] == [f"{stem}.{int(number) + count}"]:
                count += 1
        yield names[place] if count == 1 else f"{stem}.{number}:{int(number) + count}"
        place += count
