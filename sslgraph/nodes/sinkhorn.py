"""Balanced assignment: rows become distributions that use all prototypes alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.ranks import max_over_ranks, sum_over_ranks
from sslgraph.ports import Identities, In, Member, Out, Ports
from sslgraph.schedules import Bounds, Number


class Rows(NamedTuple):
    """Rows that are balanced together, in groups that are not.

    Args:
        values: groups x n x K; each row divided by its largest value, so nothing overflows.
        peaks: groups x n; the logarithm of what it was divided by, -inf for a row that does not
            count.
    """

    values: Tensor
    peaks: Tensor


class Sinkhorn(Node, use="sinkhorn"):
    """Assign rows to prototypes so that each prototype gets as much (SwAV, section 3.1, eq. 5).

    Q = exp(x / temperature), or the probabilities as they come (MSN). Each iteration scales the
    columns of Q, one a prototype, to equal sums and then each row to sum 1, so rows are exact
    distributions and columns as even as the iterations make them. Steps that scale all of Q, such
    as the division by its sum, change nothing in this and are left out. No gradient passes.

    With `extra` further rows, such as scores of a queue, are assigned along and left out of the
    result. They have no batch axis: every process holds the same ones, and they count once. Rows
    whose `weight` or `extra_weight` is 0 take no part; what they get is finite and means nothing.
    In evaluation the rows of a batch are balanced among themselves, without extra ones.

    Shapes: x V B ... K, weight V B ..., extra V Q K, extra_weight V Q -> y V B ... K, float32.
    """

    x = In("logits/probs", "V B ... K")
    weight = In("weight", "V B ...", optional=True)
    extra = In("logits/probs", "V Q K", optional=True)
    extra_weight = In("weight", "V Q", optional=True)
    y = Out("probs", "V B ... K")
    stops_gradient = True
    prevents = "balance"
    sample = {"temperature": 0.5}

    class Config(Node.Config):
        """Settings. With `temperature` the input is logits, without it probabilities."""

        temperature: Annotated[Number, Bounds(gt=0)] | None = Field(
            None, description="divides the logits; the smaller, the surer of one prototype"
        )
        iterations: PositiveInt = Field(3, description="how often columns and rows are scaled")
        per: Literal["view", "none"] = Field(
            "none", description="`view`: each view is balanced alone; `none`: all rows together"
        )
        ranks: Literal["all", "own"] = Field(
            "all", description="whose rows are balanced together: of all processes, or its own"
        )

    temperature: Tensor | None

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """What divides logits takes logits; without it they are probabilities."""
        declared = cls.declaration
        kind = "probs" if config.temperature is None else "logits"
        x, extra = In(kind, "V B ... K"), In(kind, "V Q K", optional=True)
        x.name, extra.name = "x", "extra"
        return Ports({**declared.inputs, "x": x, "extra": extra}, declared.outputs)

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Each row is assigned for the crop that it came from, whatever was assigned along."""
        return {"y": inputs.get("x", ())}

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        extra: Tensor | None = None,
        extra_weight: Tensor | None = None,
    ) -> Tensor:
        """The assignment of a batch."""
        across = self.config.ranks == "all"
        with exact(x):
            more = None if extra is None else self._rows(extra, extra_weight, len(x))
            return self._assigned(self._rows(x, weight, len(x)), more, across=across).view_as(x)

    def evaluate(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        extra: Tensor | None = None,
        extra_weight: Tensor | None = None,
    ) -> Tensor:
        """The assignment of the rows of a batch among themselves, in this process."""
        with exact(x):
            return self._assigned(self._rows(x, weight, len(x)), None, across=False).view_as(x)

    def _rows(self, x: Tensor, weight: Tensor | None, views: int) -> Rows:
        """Rows in one group, or a group a view; of one view given for many each has a copy."""
        x = at_least_float32(x.detach())
        if self.config.per == "view":
            x = x.expand(views, *x.shape[1:])
        groups = len(x) if self.config.per == "view" else 1
        if self.temperature is None:
            largest = x.amax(-1)
            values, peaks = x / largest.unsqueeze(-1), largest.log()
        else:
            x = x / self.temperature
            peaks = x.amax(-1)
            values = (x - peaks.unsqueeze(-1)).exp()
        if weight is not None:
            peaks = torch.where(weight.expand_as(peaks) == 0, -torch.inf, peaks)
        return Rows(values.reshape(groups, -1, x.shape[-1]), peaks.reshape(groups, -1))

    def _assigned(self, rows: Rows, extra: Rows | None, *, across: bool) -> Tensor:
        """The rows as distributions, groups x n x K."""
        everything = [rows] if extra is None else [rows, extra]
        top = torch.stack([each.peaks.amax(1) for each in everything]).amax(0)
        top = max_over_ranks(top) if across else top
        top = torch.where(top.isfinite(), top, 0).unsqueeze(1)  # no row may count
        scales = [(each.peaks - top).exp() for each in everything]
        columns = rows.values.new_ones(())
        for iteration in range(self.config.iterations):
            if iteration:
                scales = [_to_sum_one(each, columns, rows) for each in everything]
            masses = [_mass(*each) for each in zip(everything, scales, strict=True)]
            mass = sum_over_ranks(masses[0]) if across else masses[0]
            mass = mass + masses[1] if extra is not None else mass
            # No row may have any use for a prototype; this is still finite where it is inverted.
            mass = mass.clamp(min=torch.finfo(mass.dtype).tiny)
            columns = (1 / (mass * mass.shape[-1])).unsqueeze(1)
        y = rows.values * columns
        return y / y.sum(-1, keepdim=True)


def _mass(rows: Rows, scales: Tensor) -> Tensor:
    """What each prototype has, groups x K. No matrix product: that could be in TF32."""
    return (rows.values * scales.unsqueeze(-1)).sum(1)


def _to_sum_one(each: Rows, columns: Tensor, rows: Rows) -> Tensor:
    """What scales rows that count to one sum, groups x n; its unit is the same in all processes."""
    scales = 1 / ((each.values * columns).sum(-1) * rows.peaks.shape[1])
    return torch.where(each.peaks.isfinite(), scales, 0)
