"""Two graphs in one picture: what was added, removed and changed from the first to the second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sslgraph.comparing import Difference, SettingChange
from sslgraph.comparing.text import counted, mark_of, sides
from sslgraph.drawing.picture import Arrow, Box, Mark, Picture, picture
from sslgraph.drawing.style import SIGNS
from sslgraph.drawing.words import short
from sslgraph.plan import Plan

_LONGEST = 56
_MOST_CHANGES = 8
_RUN = "run.values"  # no node and no output is called so


def union(difference: Difference, a: Plan, b: Plan) -> Picture:
    """The picture of two graphs.

    Boxes and arrows of both are drawn once, with the names of the second graph. Those of one graph
    alone are marked, and a box whose settings changed holds the changes. What changed in the run
    stands in a box of its own. The YAML inside the picture is that of the second graph.

    Args:
        difference: What differs between them.
        a: The first graph's plan.
        b: The second graph's plan.
    """
    return _Union(difference, a, b).picture()


class _Union:
    def __init__(self, difference: Difference, a: Plan, b: Plan) -> None:
        self._difference = difference
        self._names = {pair.before: pair.after for pair in difference.renamed}
        self._old_names = {pair.after: pair.before for pair in difference.renamed}
        before = picture(a, every_input=True)
        self._after = picture(b, every_input=True)
        self._outputs = {  # places of outputs differ between the graphs, names do not
            f"outputs.{place}": f"outputs.{name}" for place, name in enumerate(b.outputs)
        }
        old_outputs = {f"outputs.{n}": f"outputs.{name}" for n, name in enumerate(a.outputs)}
        self._boxes = [
            replace(box, id=old_outputs.get(box.id, self._names.get(box.id, box.id)))
            for box in before.boxes
        ]
        self._arrows = [self._moved(arrow, old_outputs) for arrow in before.arrows]

    def picture(self) -> Picture:
        boxes = [*self._marked_boxes(), *self._run()]
        arrows = list(self._marked_arrows())
        fed: dict[str, list[str]] = {}
        for arrow in arrows:
            if arrow.input:
                fed.setdefault(arrow.head, []).append(arrow.input)
        inputs = {head: tuple(dict.fromkeys(names)) for head, names in fed.items()}
        several = {head: names if len(names) > 1 else () for head, names in inputs.items()}
        ids = {box.id: _plain_id(box, place) for place, box in enumerate(boxes)}
        return Picture(
            title=f"{self._difference.a} -> {self._difference.b}",
            summary=counted(self._difference) or "no difference",
            boxes=tuple(
                replace(box, id=ids[box.id], inputs=several.get(box.id, ())) for box in boxes
            ),
            arrows=tuple(
                replace(
                    arrow,
                    tail=ids[arrow.tail],
                    head=ids[arrow.head],
                    input=arrow.input if several.get(arrow.head) else "",
                )
                for arrow in arrows
            ),
            regions=(),
            source=self._after.source,
        )

    def _moved(self, arrow: Arrow, outputs: Mapping[str, str]) -> Arrow:
        """An arrow of the first graph with the names of the second one."""
        names = self._names
        return replace(
            arrow,
            tail=names.get(arrow.tail, arrow.tail),
            head=outputs.get(arrow.head, names.get(arrow.head, arrow.head)),
            input=_inside(arrow.input, names),
            port=_inside(arrow.port, names),
        )

    def _marked_boxes(self) -> Iterator[Box]:
        before = {box.id for box in self._boxes}
        after = {self._outputs.get(box.id, box.id) for box in self._after.boxes}
        for box in self._after.boxes:
            own = replace(box, id=self._outputs.get(box.id, box.id))
            yield self._in_both(own) if own.id in before else _marked(own, "added")
        for box in self._boxes:
            if box.id not in after:
                yield _marked(box, "removed")

    def _in_both(self, box: Box) -> Box:
        found = self._difference
        changes = [c for c in found.settings if c.path[1] == box.id]
        changes += [c for c in found.run if c.path == ("minimize", box.id)]
        old = self._old_names.get(box.id)
        if not changes and not old:
            return replace(box, details=(), mark="same")
        if old:
            box = replace(box, title=short(f"{old} -> {box.title}", _LONGEST))
        return _marked(replace(box, details=tuple(_lines(changes))), "changed")

    def _run(self) -> Iterator[Box]:
        """A box for what belongs to no node."""
        shown = [c for c in self._difference.run if c.path[0] not in ("minimize", "outputs")]
        if shown:
            yield _marked(Box(_RUN, "data", "run", details=tuple(_lines(shown))), "changed")

    def _marked_arrows(self) -> Iterator[Arrow]:
        new = [
            replace(arrow, head=self._outputs.get(arrow.head, arrow.head))
            for arrow in self._after.arrows
        ]
        before, after = ({_way(arrow) for arrow in arrows} for arrows in (self._arrows, new))
        for arrow in new:
            mark: Mark = "same" if _way(arrow) in before else "added"
            yield replace(arrow, kind="", size="", mark=mark)
        for arrow in self._arrows:
            if _way(arrow) not in after:
                yield replace(arrow, kind="", size="", mark="removed")


def _way(arrow: Arrow) -> tuple[str, str, str, str, bool]:
    """What makes two arrows the same wire; whether gradients pass it is no part of that."""
    return arrow.tail, arrow.head, arrow.input, arrow.port, arrow.line == "weights"


def _marked(box: Box, mark: Mark) -> Box:
    return replace(box, title=f"{SIGNS[mark]} {box.title}", mark=mark)


def _lines(changes: list[SettingChange]) -> Iterator[str]:
    """What changed, a line each; the path without the name of the box."""
    for change in changes[:_MOST_CHANGES]:
        inside = change.path[2:] if change.path[0] == "nodes" else change.path
        if change.path[0] == "minimize":
            inside = ("minimize",)
        mark = mark_of(change)
        sign = "" if mark == "~" else f"{mark} "
        there = [part for part in sides(change) if part]
        most = _LONGEST // len(there)
        text = " -> ".join(short(part, most) for part in there)
        yield f"{sign}{short('.'.join(map(str, inside)))}: {text}"
    if len(changes) > _MOST_CHANGES:
        yield f"and {len(changes) - _MOST_CHANGES} more"


def _inside(port: str, names: Mapping[str, str]) -> str:
    """A port of a node that repeats others begins with the name of a member."""
    first, dot, rest = port.partition(".")
    return f"{names.get(first, first)}.{rest}" if dot and first else port


def _plain_id(box: Box, place: int) -> str:
    """Names of outputs are any text, so they are no ids for a format."""
    return f"outputs.{place}" if box.role == "output" else box.id
