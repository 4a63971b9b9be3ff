"""DINOv2's training step by hand with torch and timm: nothing of the package is imported here.

It follows the released code: hidden patches are picked out into one flat list of all crops, the two
terms of the DINO loss are summed apart, clipping is by sub-module, and the last layers learn at
rate zero at first. Views and masks are given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from tests.methods.dino_by_hand import Numbers, follow


class Head(nn.Module):
    """MLP, unit length, and prototypes of learned lengths."""

    def __init__(self, width: int, hidden: int, out: int, count: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, out),
        )
        self.last: Any = weight_norm(nn.Linear(out, count, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y: Tensor = self.last(functional.normalize(self.mlp(x), dim=-1))
        return y


class Network(nn.Module):
    """Backbone with a mask token, a head for crops and one for patches."""

    def __init__(self, arch: str, args: dict[str, Any], sizes: dict[str, int]) -> None:
        super().__init__()
        backbone: Any = timm.create_model(arch, num_classes=0, dynamic_img_size=True, **args)
        self.backbone, width = backbone, backbone.num_features
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.head = Head(width, sizes["hidden"], sizes["dim"], sizes["count"])
        self.patch_head = Head(width, sizes["hidden"], sizes["patch_dim"], sizes["count"])

    def features(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class tokens and patch tokens of n images, after the last norm."""
        model: Any = self.backbone
        x = model.patch_embed(images)
        if masks is not None:
            for image, mask in enumerate(masks):
                for place in mask.nonzero()[:, 0].tolist():
                    row, column = divmod(place, x.shape[2])
                    x[image, row, column] = self.mask_token[0, 0]
        y: Tensor = model.norm(model.blocks(model.norm_pre(model._pos_embed(x))))
        return y[:, 0], y[:, model.num_prefix_tokens :]


def sinkhorn(scores: Tensor, temperature: float) -> Tensor:
    """Three rounds over rows of one list, prototypes first, images last."""
    q = (scores / temperature).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def apart(x: Tensor) -> Tensor:
    """The KoLeo term of one crop."""
    x = functional.normalize(x, dim=-1, eps=1e-8)
    near = (x @ x.T).detach().fill_diagonal_(-1).argmax(1)
    distances: Tensor = (x - x[near] + 1e-8).norm(dim=1)
    return -(distances + 1e-8).log().mean()


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Row by row, at the student's temperature."""
    return -(target * functional.log_softmax(logits / 0.1, dim=-1)).sum(-1)


class Trainer:
    """The training loop's body.

    Args:
        student: The network that is trained; the teacher begins as its copy.
        clip: The largest norm of each part's gradient.
    """

    def __init__(self, student: Network, clip: float) -> None:
        self.student, self.clip = student.train(), clip
        self.teacher = copy.deepcopy(student)
        self.teacher.requires_grad_(requires_grad=False)
        self.groups = list(_groups(student))
        self.optimizer = torch.optim.AdamW(self.groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
        self.terms: dict[str, Tensor] = {}

    def forward(self, large: Tensor, small: Tensor, masks: Tensor, temperature: float) -> Tensor:
        """The loss of a batch.

        Args:
            large: 2 B C H W.
            small: L B C h w.
            masks: 2 B N.
            temperature: Of the targets.
        """
        views, batch = large.shape[:2]
        flat = masks.flatten(0, 1)
        hidden = flat.flatten().nonzero()[:, 0]
        with torch.no_grad():
            seen, patches = self.teacher.features(large.flatten(0, 1))
            targets = sinkhorn(self.teacher.head(seen), temperature).chunk(views)
            picked = patches.flatten(0, 1)[hidden]
            patch_targets = sinkhorn(self.teacher.patch_head(picked), temperature)
        tokens, patches = self.student.features(large.flatten(0, 1), flat)
        local, _ = self.student.features(small.flatten(0, 1))
        crops = self.student.head(torch.cat([tokens, local])).chunk(views + len(small))
        count = 2 + 2 * len(small)
        local_term = sum(cross_entropy(q, p).mean() for q in targets for p in crops[views:])
        global_term = cross_entropy(torch.cat(targets[::-1]), torch.cat(crops[:views])).mean() * 2
        dino = (local_term + global_term) / count
        logits = self.student.patch_head(patches.flatten(0, 1)[hidden])
        per_image = flat.sum(1).clamp(min=1)
        weights = (1 / per_image)[:, None].expand_as(flat).flatten()[hidden]
        ibot = (cross_entropy(patch_targets, logits) * weights).sum() / (views * batch)
        koleo = sum(apart(crop) for crop in tokens.chunk(views))
        assert isinstance(koleo, Tensor)
        self.terms = {"dino": dino, "ibot": ibot, "koleo": koleo}
        return dino + ibot + 0.1 * koleo

    def backward(self, loss: Tensor) -> None:
        """Gradients, those of each part scaled down to its largest norm."""
        self.optimizer.zero_grad()
        loss.backward()

    def update(self, numbers: Numbers) -> None:
        """Clip by parts, step, and let the teacher follow."""
        student = self.student
        backbone = [*student.backbone.parameters(), student.mask_token]
        for part in (backbone, student.head.parameters(), student.patch_head.parameters()):
            nn.utils.clip_grad_norm_(list(part), self.clip)
        for group in self.groups:
            still = group["last"] and numbers.frozen
            group["lr"] = 0.0 if still else numbers.lr * group["scale"]
            group["weight_decay"] = numbers.weight_decay * group["decayed"]
        for ours, own in zip(self.groups, self.optimizer.param_groups, strict=True):
            own.update(lr=ours["lr"], weight_decay=ours["weight_decay"])
        self.optimizer.step()
        follow(self.teacher, student, numbers.momentum)


def _groups(student: Network) -> Iterator[dict[str, Any]]:
    """One group a parameter, with what its rate and decay are multiplied by."""
    for name, parameter in student.named_parameters():
        plain = name.endswith("bias") or "norm" in name.replace("parametrizations", "")
        plain = plain or "gamma" in name
        scale = 0.2 if "patch_embed" in name else 1.0
        yield {
            "params": [parameter],
            "scale": scale,
            "decayed": 0.0 if plain else 1.0,
            "last": ".last." in name,
        }
