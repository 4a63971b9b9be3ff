"""SwAV written by hand with torch and timm: nothing of the package is imported here.

It follows the paper's code step by step: one assigned crop after the other, the queue as a tensor
whose newest rows come first, one tensor after the other for the optimizer. DeepCluster-v2 has the
same network and optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.simclr_by_hand import PUBLISHED, Sample, after_crop, by_image, crop, normalised

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)  # 0.228, as in `multicropdataset.py`


def make_view(image: Tensor, draw: Sample, scale: tuple[float, float], size: int) -> Tensor:
    """One crop of one image, resampled as PIL's bilinear does: wider where it shrinks."""
    part = crop(image, draw, *scale, size, "bilinear")
    return normalised(after_crop(part, draw, PUBLISHED), MEAN, STD)


def make_crops(
    images: Tensor, seed: int, group: str, views: int, size: int, scale: tuple[float, float]
) -> Tensor:
    """Crops of one size, views B C size size."""
    return by_image(
        images, seed, group, lambda i, draw, view: make_view(i, draw, scale, size), views
    )


class Network(nn.Module):
    """Backbone and head; the backbone runs once for each size, the head once for all crops."""

    def __init__(self, arch: str, hidden: int, out: int) -> None:
        super().__init__()
        backbone: Any = timm.create_model(arch, num_classes=0)
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Linear(backbone.num_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
        )

    def forward(self, groups: Sequence[Tensor]) -> Tensor:
        """Unit rows of all crops, crop after crop."""
        features = torch.cat([self.backbone(crops.flatten(0, 1)) for crops in groups])
        return functional.normalize(self.head(features), dim=1)


def sinkhorn(scores: Tensor, temperature: float = 0.05, iterations: int = 3) -> Tensor:
    """Codes of rows, B x K; Q is K x B as in the paper."""
    q = torch.exp(scores / temperature).t()
    count, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / count
        q = q / q.sum(dim=0, keepdim=True) / samples
    return (q * samples).t()


class Larc:
    """SGD with momentum 0.9, whose gradients are scaled tensor by tensor."""

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.moments: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient."""
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            long, steep = parameter.norm(), gradient.norm()
            if long > 0 and steep > 0:
                scale = 0.001 * long / (steep + self.weight_decay * long + 1e-8)
                gradient = (gradient + self.weight_decay * parameter) * scale
            moment = self.moments.get(id(parameter))
            moment = gradient.clone() if moment is None else 0.9 * moment + gradient
            self.moments[id(parameter)] = moment
            parameter.sub_(rate * moment)


def cosine(peak: float, end: float, step: int, steps: int) -> float:
    """The learning rate of a step."""
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * step / steps))


class Trainer:
    """The training loop's body.

    Args:
        network: Backbone and head.
        count: Number of prototypes.
        queue: Rows of the queue of each assigned crop.
        starts: Step in which the queue begins.
        freeze: Steps in which prototypes stay.
        rate: The learning rate of a step.
    """

    def __init__(
        self,
        network: Network,
        count: int,
        *,
        queue: int,
        starts: int,
        freeze: int,
        rate: Callable[[int], float],
    ) -> None:
        last: Any = network.head[-1]
        self.network = network.train()
        self.prototypes = nn.Linear(last.out_features, count, bias=False).to(last.weight.dtype)
        self.size, self.starts, self.freeze, self.rate = queue, starts, freeze, rate
        self.queue: Tensor | None = None
        self.use_the_queue = False
        parameters = [*network.parameters(), *self.prototypes.parameters()]
        self.optimizer = Larc(parameters, 1e-6)

    def loss(self, large: Tensor, small: Tensor, step: int) -> Tensor:
        """The loss of a batch; the queue is filled after it was scored."""
        with torch.no_grad():
            weight = self.prototypes.weight
            weight.copy_(functional.normalize(weight, dim=1, p=2))
        rows = self.network([large, small])
        scores = self.prototypes(rows)
        rows, batch = rows.detach(), large.shape[1]
        if self.queue is None and step >= self.starts:
            self.queue = torch.zeros(2, self.size, rows.shape[1], dtype=rows.dtype)
        crops = len(large) + len(small)
        total = torch.zeros((), dtype=rows.dtype)
        for group in range(2):
            mine = slice(batch * group, batch * (group + 1))
            with torch.no_grad():
                known = self._with_queue(scores[mine].detach(), rows[mine], group)
                codes = sinkhorn(known)[-batch:]
            subloss = torch.zeros((), dtype=rows.dtype)
            for other in range(crops):
                if other != group:
                    logits = scores[batch * other : batch * (other + 1)] / 0.1
                    log_p = functional.log_softmax(logits, dim=1)
                    subloss = subloss - torch.mean(torch.sum(codes * log_p, dim=1))
            total = total + subloss / (crops - 1)
        return total / 2

    def _with_queue(self, scores: Tensor, rows: Tensor, crop: int) -> Tensor:
        """The scores of the queue, once it is full, before those of the batch."""
        if self.queue is None:
            return scores
        if self.use_the_queue or not bool((self.queue[crop, -1, :] == 0).all()):
            self.use_the_queue = True
            scores = torch.cat([self.queue[crop] @ self.prototypes.weight.t(), scores])
        self.queue[crop, len(rows) :] = self.queue[crop, : -len(rows)].clone()
        self.queue[crop, : len(rows)] = rows
        return scores

    def backward(self, loss: Tensor, step: int) -> None:
        """Gradients; none for prototypes while they are frozen."""
        for parameter in self.optimizer.parameters:
            parameter.grad = None
        loss.backward()
        if step < self.freeze:
            self.prototypes.weight.grad = None

    def update(self, step: int) -> None:
        """One step of the optimizer."""
        self.optimizer.step(self.rate(step))
