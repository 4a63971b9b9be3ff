"""The normalised temperature-scaled cross entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss, at_least_float32, exact
from sslgraph.ports import Identities, In
from sslgraph.schedules import Bounds, Number


class NtXent(Loss, use="nt_xent"):
    """Tell the other view of an image from all other images (SimCLR, equation 1).

    Each embedding is an anchor once. Its positives are the other views of its image, its negatives
    every view of every other image, over all processes. With two views this is the paper's loss;
    with more the logarithm stands outside the mean over positives (SupCon, equation 2, every image
    its own class).

    Shapes: x V B D, not normalised; the loss is a scalar in nats.
    """

    x = In("embedding", "V B D")
    gathers = {"x": "grad"}
    prevents = "negatives"
    sample = {"temperature": 0.5}

    class Config(Node.Config):
        """Settings."""

        temperature: Annotated[Number, Bounds(gt=0)] = 0.1
        """divides the cosines; the smaller, the more the nearest negatives count"""
        reduce: Literal["mean", "sum"] = "mean"
        """mean over all V B anchors (the paper); sum of the views' means (its code)."""

    temperature: Tensor

    @classmethod
    def review(cls, config: Any, inputs: Mapping[str, Identities]) -> str:
        """At least two views are needed."""
        views = len(inputs["x"])
        if views > 1:
            return ""
        return f"nt_xent compares views of one image, got {views} view; give it two or more"

    def forward(self, x: Tensor) -> Tensor:
        """The loss of a batch of embeddings."""
        views, batch, _ = x.shape
        if views < 2:
            raise ValueError("nt_xent compares views of one image, got 1 view")
        with exact(x):  # a cosine has 3 digits in bfloat16
            z = functional.normalize(at_least_float32(x.flatten(0, 1)), dim=-1)
            scores = z @ z.T / self.temperature
        own = torch.eye(views * batch, dtype=torch.bool, device=x.device)
        log_p = functional.log_softmax(scores.masked_fill(own, -torch.inf), dim=-1)
        image = torch.arange(batch, device=x.device)
        total = scores.new_zeros(())
        for anchors, rows in enumerate(log_p.unflatten(0, (views, batch))):
            for step in range(1, views):
                positives = image + (anchors + step) % views * batch
                total = total + functional.nll_loss(rows, positives)
        total = total / (views - 1)
        return total if self.config.reduce == "sum" else total / views

    def chance(self, sizes: Mapping[str, int]) -> float:
        """All embeddings equal: ln(V B - 1) per anchor."""
        scale = sizes["V"] if self.config.reduce == "sum" else 1
        return scale * math.log(sizes["V"] * sizes["B"] - 1)
