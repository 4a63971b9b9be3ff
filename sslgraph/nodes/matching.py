"""Which place of one image's view is most like each place of another view of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.ports import Identities, In, Out


class Match(Node, use="match"):
    """Find for each place of a view the most similar place of every other one (EsViT, section 3.2).

    Similarity is the cosine, places are compared within an image only and whatever their positions;
    of equals the first counts. What comes out are places alone, so no gradient passes: a loss takes
    them as `places` and compares each place of its prediction with the one found in the target,
    whose values may be of another width than what was matched.

    Shapes: x V B N D, bank V' B M D -> places V B V' N, int64 below M.
    """

    x = In("tokens", "V B N D")
    bank = In("tokens", "V' B M D")
    places = Out("label", "V B V' N")
    stops_gradient = True
    sample_axes = {"V'": 3, "M": 4}

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Those of the views that places are looked up for."""
        return {"places": inputs["x"]}

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """The places of a batch."""
        with torch.no_grad(), exact(x):  # a cosine has 3 digits in bfloat16
            rows, others = _unit(x), _unit(bank)
            found = [(rows @ other.mT).argmax(-1) for other in others.unbind()]
            return torch.stack(found, 2)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(at_least_float32(x), dim=-1)
