"""data2vec written by hand with torch and timm: nothing of the package is imported here.

It follows the published code for images: the student sees a token at hidden places, the teacher,
its slow copy in evaluation, the whole image; the target is made of the teacher's last blocks.
"""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods.masked_by_hand import normalized, samples
from tests.methods.simclr_by_hand import crop, jitter


def make_views(images: Tensor, seed: int, size: int) -> Tensor:
    """A view of each image: colours always, flip, crop, normalise."""
    made = []
    for image, draw in zip(images, samples(len(images), seed, "view"), strict=True):
        whole = jitter(image, draw, (0.4, 0.4, 0.4, 0.0))
        whole = whole.flip(-1) if draw.uniform("flip/0/hit") < 0.5 else whole
        made.append(crop(whole, draw, 0.08, 1.0, size, "bicubic"))
    return normalized(torch.stack(made))


class Student(nn.Module):
    """A transformer with relative positions whose hidden patches are one vector."""

    def __init__(self, arch: str, size: int, **args: Any) -> None:
        super().__init__()
        model: Any = timm.create_model(
            arch, num_classes=0, img_size=size, global_pool="token", **args
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, model.embed_dim))
        self.model = model

    def forward(self, images: Tensor, hidden: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Places behind the final norm, and what leaves each block; without the class token."""
        model: Any = self.model
        x = model.patch_embed(images)
        if hidden is not None:
            w = hidden[:, :, None].to(x)
            x = x * (1 - w) + self.mask_token * w
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1)
        bias = model.rel_pos_bias()
        blocks = []
        for block in model.blocks:
            x = block(x, shared_rel_pos_bias=bias)
            blocks.append(x[:, 1:])
        return model.norm(x)[:, 1:], blocks


class Data2Vec(nn.Module):
    """Student, head and teacher."""

    def __init__(self, arch: str, size: int, last: int, **args: Any) -> None:
        super().__init__()
        self.student = Student(arch, size, **args)
        width = self.student.mask_token.shape[-1]
        self.head = nn.Linear(width, width)
        self.last = last

    def make_teacher(self) -> None:
        self.teacher = copy.deepcopy(self.student).eval()
        self.teacher.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """The loss: the mean over hidden places of the batch and their numbers."""
        predicted = self.head(self.student(images, hidden)[0][hidden])
        with torch.no_grad():
            blocks = self.teacher.eval()(images, None)[1]
            target = target_of(blocks[-self.last :])[hidden]
        return functional.smooth_l1_loss(predicted, target, beta=2.0)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher; the momentum is a float32 number."""
        tau = float(torch.tensor(momentum))
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for slow, fast in pairs:
            slow.copy_(tau * slow + (1 - tau) * fast)


def target_of(blocks: list[Tensor]) -> Tensor:
    """The mean of normalised blocks, normalised again."""
    normed = [functional.layer_norm(block, block.shape[-1:]) for block in blocks]
    mean = torch.stack(normed).mean(0)
    return functional.layer_norm(mean, mean.shape[-1:])
