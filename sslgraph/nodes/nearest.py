"""Neighbours: what a memory of other images has that is most like a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.ports import Identities, In, Out


class Nearest(Node, use="nearest"):
    """Put the most similar row of a bank in the place of each row (NNCLR, section 3).

    Similarity is the cosine; of equals the first row counts. Rows are given as they stand in the
    bank, all U Q of which serve every view. A `queue` is read before it is written, so that no row
    finds itself. A neighbour stands in for the view it was looked up for and keeps the name of its
    crop. No gradient passes, neither to the row nor to the bank.

    Shapes: x V B D, bank U Q D -> y V B D.
    """

    x = In("embedding", "V B D")
    bank = In("embedding", "U Q D")
    y = Out("embedding", "V B D")
    stops_gradient = True

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Those of the views that neighbours are looked up for."""
        return {"y": inputs["x"]}

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """The neighbours of a batch."""
        with torch.no_grad(), exact(x):  # a cosine has 3 digits in bfloat16
            rows = bank.flatten(0, 1)
            unit = _unit(rows)
            # one view at a time: a bank has many more rows than a batch
            places = [(_unit(view) @ unit.T).argmax(-1) for view in x.unbind()]
            return rows[torch.stack(places)]


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(at_least_float32(x), dim=-1)
