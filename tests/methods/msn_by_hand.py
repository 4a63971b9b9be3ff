"""MSN written by hand with torch and timm: nothing of the package is imported here.

It follows the released code: crops of one size go through backbone and head together, the target is
sharpened and then balanced, and every anchor is compared with the one target.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.dino_by_hand import follow, take_step

TAU = 0.1


class Network(nn.Module):
    """Backbone and head; patches are dropped behind the position embeddings."""

    def __init__(self, arch: str, hidden: int, out: int) -> None:
        super().__init__()
        backbone: Any = timm.create_model(arch, num_classes=0, dynamic_img_size=True)
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Linear(backbone.num_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, out),
        )

    def forward(self, crops: Tensor, kept: Tensor | None = None) -> Tensor:
        """Projections of V B C H W, view after view: V B D. `kept` are the places that stay."""
        net = self.backbone
        x = net._pos_embed(net.patch_embed(crops.flatten(0, 1)))
        if kept is not None:
            x = torch.cat([x[:, :1], x[:, 1:][:, kept]], 1)
        classes = net.norm(net.blocks(net.norm_pre(x)))[:, 0]
        return self.head(classes).unflatten(0, crops.shape[:2])  # type: ignore[no-any-return]


def predict(rows: Tensor, prototypes: Tensor) -> Tensor:
    """The distribution over prototypes of each row."""
    rows, directions = functional.normalize(rows, dim=-1), functional.normalize(prototypes, dim=-1)
    return (rows @ directions.T / TAU).softmax(-1)


def balance(probs: Tensor) -> Tensor:
    """Sinkhorn on probabilities B K: three times prototypes, then samples."""
    q = (probs / probs.sum()).T
    count, samples = q.shape
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / count
        q = q / q.sum(0, keepdim=True) / samples
    return (q * samples).T


def losses(
    anchors: Tensor, target: Tensor, prototypes: Tensor, *, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Cross entropy of V B D anchors with the B D target, and what evenness lacks."""
    with torch.no_grad():
        wanted = predict(target, prototypes) ** 4
        wanted = wanted / wanted.sum(-1, keepdim=True)
        wanted = balance(wanted) if balanced else wanted
    probs = predict(anchors.flatten(0, 1), prototypes)
    every = wanted.repeat(len(anchors), 1)
    mean = probs.mean(0)
    spread = math.log(len(prototypes)) + (mean * mean.log()).sum()
    return -(every * probs.log()).sum(-1).mean(), spread


@dataclass
class Numbers:
    """What follows the schedules in one step."""

    lr: float
    weight_decay: float
    momentum: float


class Trainer:
    """The training loop's body.

    Args:
        student: The network that is trained.
        prototypes: K D, trained beside it.
        clip: The largest norm of all gradients of the student together.
    """

    def __init__(self, student: Network, prototypes: Tensor, clip: float) -> None:
        self.student, self.clip = student.train(), clip
        self.teacher = copy.deepcopy(student).requires_grad_(requires_grad=False)
        self.prototypes = nn.Parameter(prototypes.clone())
        decayed = [p for n, p in student.named_parameters() if p.ndim > 1 and "bias" not in n]
        others = [p for n, p in student.named_parameters() if p.ndim <= 1 or "bias" in n]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": others, "weight_decay": 0.0},
            {"params": [self.prototypes], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)

    def forward(
        self, target: Tensor, anchor: Tensor, focal: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both losses of a batch; `kept` are the places of the anchors that stay."""
        with torch.no_grad():
            wanted = self.teacher(target)[0]
        anchors = torch.cat([self.student(anchor, kept), self.student(focal)])
        return losses(anchors, wanted, self.prototypes)

    def update(self, numbers: Numbers) -> None:
        """Clip the student as a whole, step, and let the teacher follow."""
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.clip)
        take_step(self.optimizer, numbers.lr, numbers.weight_decay)
        follow(self.teacher, self.student, numbers.momentum)
