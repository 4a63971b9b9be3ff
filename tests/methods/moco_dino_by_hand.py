"""DINO with MoCo's queue, by hand with torch and timm; nothing of the package is imported here.

DINO's loss is that of its trainer. Beside it each of the student's crops finds, by MoCo's equation
1, the teacher's unit vector of a large crop of its image among a queue of older ones of other
images; no large crop is looked for by itself. What the teacher made of the first large crops goes
into the queue once the batch has been judged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.methods.dino_by_hand import Trainer


class QueuedTrainer(Trainer):
    """DINO's training loop with a queue of unit vectors."""

    def begin(self, queue: Tensor, temperature: float, weight: float) -> None:
        """Take over the first rows of the queue, K D, and watch what goes into last layers."""
        self.queue, self.pointer = queue.clone(), 0
        self.temperature, self.weight = temperature, weight
        self.seen: dict[str, Tensor] = {}
        for name, network in (("student", self.student), ("teacher", self.teacher)):
            network.last.register_forward_pre_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        return lambda layer, given: self.seen.update({name: given[0]})

    def forward(self, large: Tensor, small: Tensor, temperature: float) -> Tensor:
        """The loss of a batch; center and queue move after they were used."""
        loss = super().forward(large, small, temperature)
        queries = self.seen["student"].chunk(len(large) + len(small))
        keys = self.seen["teacher"].chunk(len(large))
        terms = [
            self._found(query, key)
            for j, key in enumerate(keys)
            for i, query in enumerate(queries)
            if i != j
        ]
        self._store(keys[0])
        return loss + self.weight * sum(terms, torch.zeros(())) / len(terms)

    def _found(self, query: Tensor, key: Tensor) -> Tensor:
        """Cross entropy of each query's own key, the first of 1 + K."""
        own = (query * key).sum(-1, keepdim=True)
        logits = torch.cat([own, query @ self.queue.T], 1) / self.temperature
        return functional.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64))

    def _store(self, keys: Tensor) -> None:
        self.queue = self.queue.clone()
        for key in keys:
            self.queue[self.pointer] = key
            self.pointer = (self.pointer + 1) % len(self.queue)
