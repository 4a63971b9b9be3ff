"""What the tests of the distillation methods have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pytest
import torch
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.nn import functional

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.train.groups import parameter_groups
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train.step import Updater
from tests.methods.dino_by_hand import Numbers
from tests.methods.simclr_by_hand import mix, text_key

Pairs = Iterable[tuple[Tensor, Tensor]]
Net = TypeVar("Net", bound=nn.Module)

HIDDEN, DIM, COUNT = 32, 16, 24
"""Widths and prototypes of small heads."""

PEAK = 1e-2
RUN = Horizon(total_steps=8, steps_per_epoch=2)
RATE = {"peak": PEAK, "base": None, "per": None, "warmup": "1 epoch", "end": 1e-6}
"""The learning rate of a run of four epochs of two steps."""


def numbers_at(step: int, *, decay: float = 0.4, momentum: float = 0.996) -> Numbers:
    """What DINO's schedules say in that run; the temperature is of the published 30 epochs."""
    temperatures = torch.linspace(0.04, 0.07, 30, dtype=torch.float64)
    return Numbers(
        lr=PEAK * step / 2 if step < 2 else cosine(PEAK, 1e-6, (step - 2) / 6),
        weight_decay=cosine(0.04, decay, step / 8),
        momentum=cosine(momentum, 1.0, step / 8),
        temperature=float(temperatures[step // 2]),
        frozen=step < 2,
    )


def waves(first: int, last: int, *shape: int) -> Tensor:
    """Sines of whole numbers."""
    return torch.arange(first, last + 1, dtype=torch.float64).sin().view(shape)


def cosines(first: int, last: int, *shape: int) -> Tensor:
    """Cosines of whole numbers."""
    return torch.arange(first, last + 1, dtype=torch.float64).cos().view(shape)


def exact(use: str, axes: Mapping[str, int] | None = None, **settings: Any) -> Any:
    """A node in float64 with its numbers as they are written."""
    node: Any = make_node(use, axes=axes, **settings).double()
    for name, value in settings.items():
        if isinstance(value, float):
            setattr(node, name, torch.tensor(value, dtype=torch.float64))
    return node


def batch_of(count: int, side: int) -> dict[str, Tensor]:
    """A batch of such pictures."""
    return {"image": pictures(count, side), "index": torch.arange(count)}


def pictures(count: int, side: int) -> Tensor:
    """Smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, side)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(count * 3).view(count, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


def in_float64(source: Any, changes: dict[str, Any], seed: int, run: Horizon, **how: Any) -> Method:
    """A shipped method in float64, its clock set.

    Crops are made in float32 and are then cast. Numbers that follow the run are float32 by design;
    here they are not, so that 0.1 is 0.1.
    """
    method = sslgraph.compile(sslgraph.load(source, set=changes, **how), seed=seed).double()
    method.nodes["crops"].register_forward_hook(
        lambda node, given, made: tuple(crops.double() for crops in made)
    )
    for _, node in method.nodes.items():
        for part in node.timed().values():
            for key in part._exact:
                value = getattr(part.config, key, None)
                if value is not None:
                    number = getattr(part, key).double()
                    setattr(part, key, number.fill_(value) if isinstance(value, float) else number)
    method.clock.set(total_steps=run.total_steps, steps_per_epoch=run.steps_per_epoch)
    return method


def positions_in_float64(patch: pytest.MonkeyPatch) -> None:
    """Let timm interpolate position embeddings in their own precision, not in float32."""

    def resampled(table: Tensor, new_size: Sequence[int], **how: Any) -> Tensor:
        front = how["num_prefix_tokens"]
        side = math.isqrt(table.shape[1] - front)
        grid = table[:, front:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        size = list(new_size)
        grid = functional.interpolate(grid, size=size, mode="bicubic", antialias=True)
        return torch.cat([table[:, :front], grid.flatten(2).mT], 1)

    patch.setattr(vision_transformer, "resample_abs_pos_embed", resampled)


def updater_of(method: Method, seed: int, run: Horizon) -> Updater:
    """What does the steps of a run."""
    spec, nodes = method.graph.train, method.graph.nodes
    own = {name: node.train for name, node in nodes.items()}
    groups = parameter_groups(method, method.parameters_by_node(), spec, own, run)
    return Updater(method, build_optimizer(spec, groups), groups, spec, run, seed)


def seed_drop_path(seed: int, step: int) -> None:
    """Seed torch as the first forward pass of a step does."""
    torch.manual_seed(mix(seed, text_key("model"), step, 0) & (2**63 - 1))


def cosine(start: float, end: float, done: float) -> float:
    """A value on a cosine, where a share `done` of the way is behind."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def require_equal(pairs: Pairs, tolerance: float = 1e-6) -> None:
    """See that tensors differ by rounding alone, relative to their norm."""
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-10


def require_equal_gradients(pairs: Pairs, longer: float = 0.0) -> int:
    """See that gradients are equal; how many of them have a norm above `longer`.

    Where there are none, there are none on both sides.
    """
    every = list(pairs)
    assert [ours.grad is None for ours, _ in every] == [other.grad is None for _, other in every]
    found = [(a.grad, b.grad) for a, b in every if a.grad is not None and b.grad is not None]
    require_equal(found)
    return sum(int(ours.norm() > longer) for ours, _ in found)


def same_parameters(ours: nn.Module, theirs: nn.Module) -> Pairs:
    """The parameters of two modules side by side."""
    return zip(ours.parameters(), theirs.parameters(), strict=True)


def beside(nodes: Any, hand: Any) -> Pairs:
    """Each parameter of encoder, projector and prototypes beside its own of DINO's by hand."""
    last, weight = nodes["prototypes"], hand.last.parametrizations.weight
    yield from same_parameters(nodes["encoder"].model, hand.backbone)
    yield from same_parameters(nodes["projector"].layers, hand.mlp)
    yield from ((last.g, weight.original0), (last.v, weight.original1))


def begun_alike(
    make: Callable[[float], Net], pairs: Callable[[Any, Any], Pairs], nodes: Any
) -> tuple[Net, Net]:
    """Student and teacher by hand, with stochastic depth and without; the student's weights."""
    student, teacher = (make(rate).double() for rate in (0.1, 0.0))
    for ours, theirs in pairs(nodes, student):
        theirs.data.copy_(ours.data)
    return student, teacher


def require_equal_step(
    updater: Updater,
    batch: dict[str, Tensor],
    step: int,
    losses: Mapping[str, Tensor],
    pairs: Callable[[], Pairs],
    update: Callable[[], None],
    slow: Callable[[], Pairs],
    *,
    longer: float = 0.0,
) -> int:
    """See that a step of a run does to a method what was done by hand.

    Args:
        updater: What does the steps of the run.
        batch: The images.
        step: The number of the step.
        losses: Values by hand of terms, and of the whole under the name "".
        pairs: Gives the student's parameters beside those by hand, whose gradients are there.
        update: Does the rest of the step by hand.
        slow: Gives the parameters of the slow copies.
        longer: See below.

    Returns:
        How many gradients have a norm above `longer`.
    """
    done = updater.begin([batch], step)
    require_equal((done.terms[name] if name else done.loss, one) for name, one in losses.items())
    found = require_equal_gradients(pairs(), longer)
    update()
    assert updater.finish(done) == ""
    require_equal(pairs())
    require_equal(slow())
    return found
