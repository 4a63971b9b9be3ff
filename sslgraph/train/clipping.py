"""Gradient clipping: sets of gradients, each scaled so that its norm keeps to a limit.

Papers differ in what has one norm: all gradients of the run, each tensor on its own (DINO, which
is not the same), each of some parts (DINOv2), or one part while the rest is free (MSN).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sslgraph.train.groups import ParameterGroup
from sslgraph.train_spec import Clip

EPSILON = 1e-6
"""Added to a norm, as torch and the code of DINO do."""


def tensor_norms(gradients: Sequence[Tensor], like: Tensor) -> Tensor:
    """Euclidean norm of each gradient, float32, in their order; on the device of `like`."""
    if not gradients:
        return torch.zeros(0, device=like.device)
    return torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients))])


def total_norm(norms: Tensor) -> Tensor:
    """Euclidean norm of tensors together, from the norm of each; 0-d, 0 of none."""
    total: Tensor = torch.linalg.vector_norm(norms)
    return total


class Clipping:
    """Clips the gradients of a run, set by set.

    The gradients g of a set are multiplied by min(1, largest / (|g| + 1e-6)).

    Args:
        spec: How large a norm may be, and what has one.
        groups: The parameters, named by node and parameter.
    """

    def __init__(self, spec: Clip, groups: Sequence[ParameterGroup]) -> None:
        self._largest = spec.norm
        self._parameters = [parameter for group in groups for parameter in group.parameters]
        self._sets = list(_sets(spec, [name for group in groups for name in group.names]))

    @torch.no_grad()
    def __call__(self, norms: Tensor) -> None:
        """Clip in place.

        Args:
            norms: Of each gradient there is, in the order of the groups; see `tensor_norms`.
        """
        graded = [place for place, p in enumerate(self._parameters) if p.grad is not None]
        norm_of = dict(zip(graded, norms.unbind(), strict=True))
        sets = [[place for place in members if place in norm_of] for members in self._sets]
        sets = [members for members in sets if members]
        if not sets:
            return
        parts = [torch.stack([norm_of[place] for place in members]) for members in sets]
        whole = torch.stack([part[0] if len(part) == 1 else total_norm(part) for part in parts])
        factors = (self._largest / (whole + EPSILON)).clamp(max=1.0)
        for members, factor in zip(sets, factors.unbind(), strict=True):
            torch._foreach_mul_(self._gradients(members), factor)

    def _gradients(self, places: Sequence[int]) -> list[Tensor]:
        every = (self._parameters[place].grad for place in places)
        return [gradient for gradient in every if gradient is not None]


def _sets(spec: Clip, names: Sequence[str]) -> Iterator[list[int]]:
    """Places of the parameters of each set, by the parameters' names."""
    nodes = [name.partition(".")[0] for name in names]
    if spec.scope == "run":
        yield list(range(len(names)))
    elif spec.scope == "tensor":
        yield from ([place] for place in range(len(names)))
    else:
        every = [[node] for node in dict.fromkeys(nodes)]
        for members in every if spec.scope == "node" else spec.scope:
            yield [place for place, node in enumerate(nodes) if node in members]
