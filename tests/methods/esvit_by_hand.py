"""EsViT written by hand with torch and timm: nothing of the package is imported here.

Optimizer and slow copy are those of DINO by hand. The match of regions follows the released code:
one pair of views after the other, one region after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from tests.methods import dino_by_hand

Seen = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""For each view: logits B K, logits of regions B N K, features of regions B N D."""


class Network(nn.Module):
    """A backbone without class token, a head for its mean and one for its regions."""

    def __init__(self, backbone: nn.Module, width: int, hidden: int, out: int, count: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.mlp, self.last = _head(width, hidden, out, count)
        self.region_mlp, self.region_last = _head(width, hidden, out, count)

    def forward(self, groups: Sequence[Tensor]) -> Seen:
        """What is seen of groups of crops V B C H W."""
        views: list[Tensor] = []
        regions: list[Tensor] = []
        features: list[Tensor] = []
        for crops in groups:
            last = self.backbone.forward_features(crops.flatten(0, 1))  # type: ignore[operator]
            rows = last.flatten(1, 2).unflatten(0, crops.shape[:2])
            features += rows
            views += self.last(functional.normalize(self.mlp(rows.mean(2)), dim=-1))
            regions += self.region_last(functional.normalize(self.region_mlp(rows), dim=-1))
        return views, regions, features


def _head(width: int, hidden: int, out: int, count: int) -> tuple[nn.Module, nn.Module]:
    mlp = nn.Sequential(
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, out),
    )
    last = weight_norm(nn.Linear(out, count, bias=False))
    return mlp, last


def total(
    student: Seen, targets: Sequence[Tensor], regions: Sequence[Tensor], seen: Seen
) -> Tensor:
    """The loss, for targets of views B K and of regions B M K; `seen` has what is matched."""
    terms = []
    for i, (target, of_region) in enumerate(zip(targets, regions, strict=True)):
        for j, (view, region, feature) in enumerate(zip(*student, strict=True)):
            if i == j:
                continue
            whole = -(target * functional.log_softmax(view / 0.1, dim=-1)).sum(-1).mean()
            parts = []
            for image in range(len(feature)):
                for place, row in enumerate(feature[image]):
                    cosines = functional.cosine_similarity(row[None], seen[2][i][image], dim=-1)
                    wanted = of_region[image, int(cosines.argmax())]
                    log_p = functional.log_softmax(region[image, place] / 0.1, dim=-1)
                    parts.append(-(wanted * log_p).sum())
            terms.append((whole + torch.stack(parts).mean()) / 2)
    return torch.stack(terms).mean()


class Trainer(dino_by_hand.Trainer):
    """DINO's training loop with two losses and two centers."""

    student: Any
    teacher: Any

    def __init__(self, student: Network, teacher: Network, clip: float) -> None:
        super().__init__(student, teacher, clip)  # type: ignore[arg-type]
        self.region_center = torch.zeros_like(self.center)

    def forward(self, large: Tensor, small: Tensor, temperature: float) -> Tensor:
        """The loss of a batch; the centers move after they were used."""
        with torch.no_grad():
            seen: Seen = self.teacher([large])
        targets = [((z - self.center) / temperature).softmax(-1) for z in seen[0]]
        regions = [((z - self.region_center) / temperature).softmax(-1) for z in seen[1]]
        found: Seen = self.student([large, small])
        self.center = 0.9 * self.center + 0.1 * torch.cat(seen[0]).mean(0)
        rows = torch.cat(seen[1]).flatten(0, 1)
        self.region_center = 0.9 * self.region_center + 0.1 * rows.mean(0)
        return total(found, targets, regions, seen)

    def backward(self, loss: Tensor, frozen: bool) -> None:
        """Gradients of the student; none for both last layers while they are frozen."""
        super().backward(loss, frozen)
        if frozen:
            for parameter in self.student.region_last.parameters():
                parameter.grad = None
