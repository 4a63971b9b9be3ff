"""Memory of earlier batches, read before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.ports import Identities, In, Out


class Queue(Node, use="queue"):
    """First-in-first-out memory of embeddings (MoCo, section 3.1).

    What it gives is what was stored by earlier forward passes; the batch goes in when every node
    has read. So no key is a negative of its own query. Every process stores the keys of all, in the
    order of the ranks. A size that is no multiple of the batch wraps round; of a batch that is
    larger than the queue the last rows stay. Evaluation stores nothing.

    Shapes: x V B D is stored, items V size D; each view has rows of its own.
    """

    x = In("embedding", "V B D", at="write")
    items = Out("embedding", "V size D")
    writes = "batch"
    gathers = {"x": "no_grad"}
    sample = {"size": 12}

    class Config(Node.Config):
        """Settings.

        Attributes:
            size: Rows of each view.
            start: What the rows are before keys take their place: `random`, normally distributed
                and of unit length, as in MoCo's code.
            normalize: Store rows of unit length; else as they come.
        """

        size: PositiveInt = 65536
        start: Literal["random"] = "random"
        normalize: bool = True

    rows: Tensor
    place: Tensor

    def build(self, V: int, D: int) -> None:
        """Fill V x size rows of width D."""
        rows = functional.normalize(torch.randn(V, self.config.size, D), dim=-1)
        self.register_buffer("rows", rows)
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Rows come from other images, so no crop of this batch has their names."""
        # what it stores may depend on what it gives, and is then not known yet
        views = len(inputs["x"]) if "x" in inputs else 1
        return {"items": tuple(f"{name}.{view}" for view in range(views))}

    def forward(self) -> Tensor:
        """The rows, as they stay whatever is stored later."""
        return self.rows.clone()

    def write(self, x: Tensor) -> None:
        """Put a batch in the place of the oldest rows; `place` is where the next one begins."""
        x = x.detach().to(self.rows.dtype)
        if self.config.normalize:
            x = functional.normalize(x, dim=-1)
        size, count = self.config.size, x.shape[1]
        newest = torch.arange(max(0, count - size), count, device=x.device)
        self.rows.index_copy_(1, (self.place + newest) % size, x[:, -size:])
        self.place.copy_((self.place + count) % size)
