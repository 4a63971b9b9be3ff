"""Telling the positive of a query from negatives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.losses.pairs import PairLoss
from sslgraph.nodes.ranks import rank
from sslgraph.ports import In
from sslgraph.schedules import Bounds, LearnableNumber


class InfoNce(PairLoss, use="info_nce"):
    """Find the positive of each query among negatives (CPC, eq. 4; MoCo, eq. 1).

    With `negatives` plugged, such as a queue, they are all the negatives there are: the positives
    of other images are none, and the positive is never among them. Without, the negatives of a
    query are the positives of all other images in the same view, over all processes and with
    gradient (MoCo v3, NNCLR).

    No gradient is stopped: keys that must not learn come through `ema` or `stop_grad`. MoCo v3's
    factor 2 temperature is a constant, so it is a weight in `minimize`.

    Shapes: query V B D, positive V' B D, negatives U Q D, whose U Q rows serve every pair; the loss
    is a scalar in nats.
    """

    query = In("embedding", "V B D")
    positive = In("embedding", "V' B D")
    negatives = In("embedding", "U Q D", optional=True)
    gathers = {"positive": "grad"}
    attracts = ("query", "positive")
    prevents = "negatives"
    sample = {"temperature": 0.5}

    class Config(PairLoss.Config):
        """Settings.

        Attributes:
            temperature: Divides the similarities; the smaller, the more the nearest negatives
                count.
            cosine: Whether similarities are cosines; otherwise they are dot products of what comes
                in.
        """

        temperature: Annotated[LearnableNumber, Bounds(gt=0)] = 0.07
        cosine: bool = True

    temperature: Tensor

    def forward(self, query: Tensor, positive: Tensor, negatives: Tensor | None = None) -> Tensor:
        """The loss of a batch."""
        batch = query.shape[1]
        # other processes give positives too; those of this one begin at its rank
        own = rank() * batch if positive.shape[1] > batch else 0
        with exact(query):  # a cosine has 3 digits in bfloat16
            queries = (self._ready(query) / self.temperature).unbind()
            pairs = self.compared(query, positive)
            if negatives is None:
                keys = self._ready(positive).unbind()
                terms = [_among_others(queries[i], keys[j], own) for i, j in pairs]
            else:
                keys = self._ready(positive[:, own : own + batch]).unbind()
                rows = self._ready(negatives).flatten(0, 1)
                terms = [_among_negatives(queries[i], keys[j], rows) for i, j in pairs]
            return self.reduced(terms)

    def chance(self, sizes: Mapping[str, int]) -> float:
        """All similarities equal: ln of the number of candidates, ln(1 + U Q) or ln(B)."""
        return self.scale(sizes) * math.log(_candidates(sizes))

    def floor(self, sizes: Mapping[str, int]) -> float:
        """Cosines as far apart as they can be; dot products have no end, so the loss has 0.

        Of a queue, every row points away from every query. Of a batch of B, queries equal their
        keys and lie at the corners of a simplex, whose cosines are -1 / (B - 1).
        """
        others = _candidates(sizes) - 1
        if not self.config.cosine or not others:
            return 0.0
        gap = 2.0 if "Q" in sizes else 1 + 1 / others
        return self.scale(sizes) * math.log1p(others * math.exp(-gap / float(self.temperature)))

    def _ready(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        return functional.normalize(x, dim=-1) if self.config.cosine else x


def _among_others(query: Tensor, keys: Tensor, own: int) -> Tensor:
    """Queries B D against the keys of all images; those of this process begin at `own`."""
    place = torch.arange(own, own + query.shape[0], device=query.device)
    return functional.cross_entropy(query @ keys.T, place)


def _among_negatives(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    """Queries B D against their own keys B D and all negatives Q D.

    The positive is not put beside the negatives: of B (1 + Q) similarities there is one copy.
    """
    others = torch.logsumexp(query @ negatives.T, dim=-1)
    return -functional.logsigmoid((query * key).sum(-1) - others).mean()


def _candidates(sizes: Mapping[str, int]) -> int:
    return 1 + sizes["U"] * sizes["Q"] if "Q" in sizes else sizes["B"]
