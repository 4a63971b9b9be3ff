"""DINO written by hand with torch, timm and kornia: nothing of the package is imported here.

It follows the paper's code step by step: one image after the other for the crops, one pair of crops
after the other for the loss, one tensor after the other for clipping and the teacher.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import kornia
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from tests.methods.simclr_by_hand import Sample, jitter, mix, text_key

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Group:
    """Crops of one size: how many, how large, from how much of the image; chances a view."""

    name: str
    views: int
    size: int
    scale: tuple[float, float]
    blur: Sequence[float]
    solarize: Sequence[float]


def crop(image: Tensor, draw: Sample, scale: tuple[float, float], size: int) -> Tensor:
    """A box of a square image, resampled as PIL's bicubic does: wider where it shrinks."""
    side, ratios = image.shape[-1], (math.log(3 / 4), math.log(4 / 3))
    for lane in range(10):
        area = draw.uniform("crop/0/area", lane=lane).double() * (scale[1] - scale[0]) + scale[0]
        shape = draw.uniform("crop/0/ratio", lane=lane).double() * (ratios[1] - ratios[0])
        pixels, ratio = area * side * side, (shape + ratios[0]).exp()
        w, h = int((pixels * ratio).sqrt().round()), int((pixels / ratio).sqrt().round())
        if 0 < w <= side and 0 < h <= side:
            top = draw.integer("crop/0/top", 0, side - h)
            left = draw.integer("crop/0/left", 0, side - w)
            break
    else:
        top, left, h, w = 0, 0, side, side
    part = image[None, :, top : top + h, left : left + w]
    view = functional.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]
    return view.clamp(0, 1)


def make_view(image: Tensor, draw: Sample, group: Group, view: int) -> Tensor:
    """One crop of one image: flip, colours, blur, solarize, standardised."""
    image = crop(image, draw, group.scale, group.size)
    if draw.uniform("flip/0/hit") < 0.5:
        image = image.flip(-1)
    if draw.uniform("jitter/0/hit") < 0.8:
        image = jitter(image, draw, (0.4, 0.4, 0.2, 0.1))
    if draw.uniform("gray/0/hit") < 0.2:
        image = kornia.color.rgb_to_grayscale(image[None]).repeat(1, 3, 1, 1)[0]
    if draw.uniform("blur/0/hit") < group.blur[view]:
        taps = 2 * (group.size // 20) + 1
        sigma = draw.uniform("blur/0/sigma", 0.1, 2.0).expand(1, 2)
        image = kornia.filters.gaussian_blur2d(image[None], (taps, taps), sigma)[0]
    if draw.uniform("solarize/0/hit") < group.solarize[view]:
        image = torch.where(image < 0.5, image, 1 - image)
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def make_crops(images: Tensor, seed: int, node: str, group: Group) -> Tensor:
    """views B C size size."""
    key = text_key(f"{node}.{group.name}")
    return torch.stack(
        [
            torch.stack(
                [
                    make_view(image, Sample(mix(seed, key, view, place)), group, view)
                    for place, image in enumerate(images)
                ]
            )
            for view in range(group.views)
        ]
    )


class Network(nn.Module):
    """Backbone and head."""

    def __init__(self, arch: str, hidden: int, out: int, count: int, drop_path: float) -> None:
        super().__init__()
        backbone: Any = timm.create_model(
            arch, num_classes=0, dynamic_img_size=True, drop_path_rate=drop_path
        )
        self.backbone = backbone
        self.mlp = nn.Sequential(
            nn.Linear(backbone.num_features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, out),
        )
        self.last: Any = weight_norm(nn.Linear(out, count, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1)
        self.last.parametrizations.weight.original0.requires_grad = False

    def forward(self, groups: Sequence[Tensor]) -> Tensor:
        """Logits of all crops, crop after crop; the backbone runs once for each size."""
        features = torch.cat([self.backbone(crops.flatten(0, 1)) for crops in groups])
        return self.last(functional.normalize(self.mlp(features), dim=-1))  # type: ignore[no-any-return]


@dataclass
class Numbers:
    """What follows the schedules in one step."""

    lr: float
    weight_decay: float
    momentum: float
    temperature: float
    frozen: bool


class Trainer:
    """The training loop's body.

    Args:
        student: The network that is trained.
        teacher: Another one like it; it begins as a copy.
        clip: The largest norm of a tensor's gradient.
    """

    def __init__(self, student: Network, teacher: Network, clip: float) -> None:
        self.student, self.teacher, self.clip = student.train(), teacher.train(), clip
        self.teacher.load_state_dict(copy.deepcopy(student.state_dict()))
        self.teacher.requires_grad_(requires_grad=False)
        self.center = torch.zeros(student.last.weight.shape[0])
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in student.named_parameters():
            if parameter.requires_grad:
                plain = name.endswith(".bias") or parameter.ndim == 1
                (others if plain else decayed).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)

    def forward(self, large: Tensor, small: Tensor, temperature: float) -> Tensor:
        """The loss of a batch; the center moves after it was used."""
        with torch.no_grad():
            teacher = self.teacher([large])
            targets = functional.softmax((teacher - self.center) / temperature, dim=-1).chunk(2)
        count = len(large) + len(small)
        students = (self.student([large, small]) / 0.1).chunk(count)
        total, terms = torch.zeros(()), 0
        for i, target in enumerate(targets):
            for j, student in enumerate(students):
                if i != j:
                    rows = -(target * functional.log_softmax(student, dim=-1)).sum(-1)
                    total, terms = total + rows.mean(), terms + 1
        self.center = 0.9 * self.center + 0.1 * teacher.mean(0)
        return total / terms

    def backward(self, loss: Tensor, frozen: bool) -> None:
        """Gradients of the student; none for the last layer while it is frozen."""
        self.optimizer.zero_grad()
        loss.backward()
        if frozen:
            for parameter in self.student.last.parameters():
                parameter.grad = None

    def update(self, numbers: Numbers) -> None:
        """Clip tensor by tensor, step, and let the teacher follow."""
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                factor = self.clip / (parameter.grad.norm() + 1e-6)
                if factor < 1:
                    parameter.grad.mul_(factor)
        take_step(self.optimizer, numbers.lr, numbers.weight_decay)
        follow(self.teacher, self.student, numbers.momentum)


def take_step(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """A step of all groups at one rate; the first group alone decays."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.param_groups[0]["weight_decay"] = weight_decay
    optimizer.step()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the parameters of a slow copy, and no buffers."""
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.mul_(momentum).add_(fast, alpha=1 - momentum)
