"""Memory of earlier batches, read before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.ports import Identities, In, Out
from sslgraph.schedules import Schedule, Time

_STORING = "from"
_AT_ONCE = Time(0, "steps")


class Queue(Node, use="queue"):
    """First-in-first-out memory of embeddings (MoCo, section 3.1).

    What it gives is what was stored by earlier forward passes; the batch goes in when every node
    has read. So no key is a negative of its own query. Every process stores the keys of all, in the
    order of the ranks. A size that is no multiple of the batch wraps round; of a batch that is
    larger than the queue the last rows stay. Evaluation stores nothing.

    `weight` is 1 for rows that count. Those of an empty start count from the time when all of them
    have been stored (SwAV's code); who reads `items` alone reads zeros until then.

    Shapes: x V B D is stored, items V size D, weight V size; each view has rows of its own.
    """

    x = In("embedding", "V B D", at="write")
    items = Out("embedding", "V size D", main=True)
    weight = Out("weight", "V size")
    writes = "batch"
    gathers = {"x": "no_grad"}
    sample = {"size": 12}

    class Config(Node.Config):
        """Settings.

        Attributes:
            size: Rows of each view.
            start: What the rows are before keys take their place: `random`, normally distributed
                and of unit length, as in MoCo's code, or `empty`, zeros without weight.
            normalize: Store rows of unit length; else as they come.
        """

        size: PositiveInt = 65536
        start: Literal["random", "empty"] = "random"
        normalize: bool = True
        from_: Time | None = Field(
            None, alias=_STORING, description="when it begins to store; at once if absent"
        )

    rows: Tensor
    place: Tensor
    stored: Tensor | None

    def build(self, V: int, D: int) -> None:
        """Fill V x size rows of width D."""
        empty = self.config.start == "empty"
        rows = torch.randn(V, self.config.size, D)
        rows = torch.zeros_like(rows) if empty else functional.normalize(rows, dim=-1)
        self.register_buffer("rows", rows)
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64) if empty else None)
        self.register_number(_STORING, 1.0)
        if self.config.from_ is not None:
            begin = Schedule(linear=(0.0, 1.0), from_=self.config.from_, over=_AT_ONCE)
            self.schedules[_STORING] = begin

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Rows come from other images, so no crop of this batch has their names."""
        # what it stores may depend on what it gives, and is then not known yet
        views = len(inputs["x"]) if "x" in inputs else 1
        names = tuple(f"{name}.{view}" for view in range(views))
        return {"items": names, "weight": names}

    def forward(self) -> tuple[Tensor, Tensor]:
        """The rows, as they stay whatever is stored later, and whether they count."""
        weight = self.rows.new_ones(self.rows.shape[:2])
        if self.stored is not None:
            weight = weight * (self.stored >= self.config.size)
        made: tuple[Tensor, Tensor] = self.Outputs(items=self.rows.clone(), weight=weight)
        return made

    def write(self, x: Tensor) -> None:
        """Put a batch in the place of the oldest rows; `place` is where the next one begins."""
        x = x.detach().to(self.rows.dtype)
        if self.config.normalize:
            x = functional.normalize(x, dim=-1)
        size, count = self.config.size, x.shape[1]
        newest = torch.arange(max(0, count - size), count, device=x.device)
        places = (self.place + newest) % size
        storing = getattr(self, _STORING) > 0
        kept = torch.where(storing, x[:, -size:], self.rows[:, places])
        self.rows.index_copy_(1, places, kept)
        self.place.copy_((self.place + count * storing) % size)
        if self.stored is not None:
            self.stored.add_(count * storing).clamp_(max=size)
