"""iBOT written by hand with torch and timm: nothing of the package is imported here.

What it shares with DINO (backbone, head, optimizer, slow copy) is DINO's by hand. The loss of the
hidden patches is written image by image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods import dino_by_hand


class Network(dino_by_hand.Network):
    """Backbone with a token for what is hidden, and one head for class token and patches."""

    def __init__(self, arch: str, hidden: int, out: int, count: int, drop_path: float) -> None:
        super().__init__(arch, hidden, out, count, drop_path)
        self.last.parametrizations.weight.original0.requires_grad = True
        self.hidden = nn.Parameter(torch.zeros(1, 1, self.backbone.num_features))

    def tokens(self, crops: Tensor, masks: Tensor | None = None) -> Tensor:
        """Class token and patches of V B C H W: V B (1 + N) D. Masks V B N say what is hidden."""
        net, images = self.backbone, crops.flatten(0, 1)
        x = net.patch_embed(images)
        if masks is not None:
            hidden = masks.flatten(0, 1).reshape(*x.shape[:-1], 1).to(x.dtype)
            x = x * (1 - hidden) + self.hidden.view(-1) * hidden
        x = net.norm(net.blocks(net.norm_pre(net._pos_embed(x))))
        return x.unflatten(0, crops.shape[:2])  # type: ignore[no-any-return]

    def head(self, rows: Tensor) -> Tensor:
        """Logits."""
        return self.last(functional.normalize(self.mlp(rows), dim=-1))  # type: ignore[no-any-return]


def entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Cross entropy of each row, at the student's temperature."""
    return -(target * functional.log_softmax(logits / 0.1, dim=-1)).sum(-1)


def patch_loss(targets: Tensor, logits: Tensor, masks: Tensor) -> Tensor:
    """The mean over images of the mean over what is hidden in each, of V B N ... tensors."""
    total, images = torch.zeros((), dtype=logits.dtype), 0
    for of_target, of_logits, of_mask in zip(targets, logits, masks, strict=True):
        for target, row, mask in zip(of_target, of_logits, of_mask, strict=True):
            images += 1
            if mask.any():
                total = total + entropy(target, row)[mask].mean()
    return total / images


class Trainer(dino_by_hand.Trainer):
    """DINO's training loop with a second loss and a second center."""

    student: Network
    teacher: Network

    def __init__(self, student: Network, teacher: Network, clip: float) -> None:
        super().__init__(student, teacher, clip)
        self.patch_center = torch.zeros_like(self.center)

    def losses(
        self, large: Tensor, small: Tensor, masks: Tensor, temperatures: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Both losses of a batch; the centers move after they were used.

        Args:
            large: Global crops, 2 B C H W.
            small: Local crops, V B C h w.
            masks: What is hidden in the global ones, 2 B N.
            temperatures: The teacher's, of class tokens and of patches.
        """
        with torch.no_grad():
            seen = self.teacher.head(self.teacher.tokens(large))
        classes, patches = seen[:, :, 0], seen[:, :, 1:]
        targets = ((classes - self.center) / temperatures[0]).softmax(-1)
        patch_targets = ((patches - self.patch_center) / temperatures[1]).softmax(-1)
        found = self.student.head(self.student.tokens(large, masks))
        local = self.student.head(self.student.tokens(small)[:, :, 0])
        students = [*found[:, :, 0], *local]
        terms = [
            entropy(target, student).mean()
            for i, target in enumerate(targets)
            for j, student in enumerate(students)
            if i != j
        ]
        self.center = 0.9 * self.center + 0.1 * classes.mean((0, 1))
        self.patch_center = 0.9 * self.patch_center + 0.1 * patches.mean(2).mean((0, 1))
        return torch.stack(terms).mean(), patch_loss(patch_targets, found[:, :, 1:], masks)
