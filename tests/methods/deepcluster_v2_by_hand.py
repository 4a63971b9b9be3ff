"""DeepCluster-v2 written by hand with torch: nothing of the package is imported here.

It follows the paper's code: the memory is filled without gradient before the first epoch, then
clustered at the start of each and written again during it; one head after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tests.methods.simclr_by_hand import mix, text_key
from tests.methods.swav_by_hand import Larc, Network

HEADS = ("bank_a", "bank_b", "bank_c")


def kmeans(memory: Tensor, centroids: Tensor, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Spherical k-means: assignments and centroids."""
    for step in range(iterations + 1):
        assignments = torch.mm(memory, centroids.t()).max(dim=1).indices
        if step == iterations:
            break
        sums = torch.zeros_like(centroids)
        counts = torch.zeros(len(centroids), dtype=torch.int64)
        for k in range(len(centroids)):
            members = memory[assignments == k]
            sums[k], counts[k] = members.sum(0), len(members)
        mask = counts > 0
        centroids[mask] = sums[mask] / counts[mask].unsqueeze(1)
        centroids = functional.normalize(centroids, dim=1, p=2)
    return assignments, centroids


class Trainer:
    """The training loop's body.

    Args:
        network: Backbone and head.
        count: Number of prototypes of each head.
        images: Number of images of the data set.
        seed: Of the run; the start of each clustering is drawn from it.
        rate: The learning rate of a step.
    """

    def __init__(
        self, network: Network, count: int, images: int, seed: int, rate: Callable[[int], float]
    ) -> None:
        self.network = network.train()
        self.count, self.images, self.seed, self.rate = count, images, seed, rate
        self.memory: list[dict[int, Tensor]] = [{}, {}]
        self.assignments = [torch.full((images,), -100) for _ in HEADS]
        self.prototypes: list[Tensor] = []
        self.optimizer = Larc(network.parameters(), 1e-6)

    def fill(self, groups: Sequence[Tensor], numbers: Tensor) -> None:
        """Store a batch, without gradient; batch norm is in training mode."""
        with torch.no_grad():
            self._store(self.network(groups), numbers)

    def _store(self, rows: Tensor, numbers: Tensor) -> None:
        batch = len(numbers)
        for crop in range(2):
            mine = rows[batch * crop : batch * (crop + 1)].detach()
            self.memory[crop].update(zip(numbers.tolist(), mine, strict=True))

    def cluster(self, epoch: int) -> None:
        """Assign every image that is in the memory, and take centroids as prototypes."""
        self.prototypes = []
        for head, name in enumerate(HEADS):
            memory = self.memory[head % 2]
            numbers = sorted(memory)
            rows = torch.stack([memory[number] for number in numbers])
            key = text_key(f"{self.seed}/{name}") & (2**63 - 1)
            drawn = sorted(range(len(numbers)), key=lambda i: _signed(mix(key, epoch, numbers[i])))
            assignments, centroids = kmeans(rows, rows[drawn[: self.count]].clone())
            self.assignments[head] = torch.full((self.images,), -100)
            self.assignments[head][numbers] = assignments
            self.prototypes.append(centroids)
        self.memory = [{}, {}]

    def loss(self, groups: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """The mean of the losses of the heads; the batch is stored."""
        rows = self.network(groups)
        crops = len(rows) // len(numbers)
        total = torch.zeros((), dtype=rows.dtype)
        for assignments, prototypes in zip(self.assignments, self.prototypes, strict=True):
            scores = rows @ prototypes.t() / 0.1
            targets = assignments[numbers].repeat(crops)
            total = total + functional.cross_entropy(scores, targets, ignore_index=-100)
        self._store(rows, numbers)
        return total / len(HEADS)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the network; prototypes never have any."""
        self.network.zero_grad()
        loss.backward()

    def update(self, step: int) -> None:
        """One step of the optimizer."""
        self.optimizer.step(self.rate(step))


def _signed(word: int) -> int:
    """64 bits as a signed number."""
    return word - (1 << 64) if word >> 63 else word
