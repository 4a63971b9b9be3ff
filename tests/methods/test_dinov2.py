"""DINOv2 as a graph against DINOv2 by hand, its golden numbers, and its terms one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.plan import make_plan
from sslgraph.train.groups import parameter_groups
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train.step import Updater
from tests.methods.dinov2_by_hand import Network, Numbers, Trainer

SEED, BATCH = 3, 6
PEAK, CLIP = 1e-2, 0.05
RUN = Horizon(total_steps=8, steps_per_epoch=2)
ARGS = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 2}
SIZES = {"hidden": 24, "dim": 16, "patch_dim": 12, "count": 20}
FED = ("crops.global", "crops.local", "masks")
HEAD: dict[str, Any] = {"hidden": [24, 24]}
SMALL: dict[str, Any] = {
    "vars.arch": "vit_tiny_patch16_224",
    "vars.patch": 4,
    "vars.k": 20,
    "nodes.crops.crops.global.size": 16,
    "nodes.crops.crops.local": {"size": 8, "views": 3, "scale": [0.05, 0.32]},
    "nodes.encoder.args": {**ARGS, "init_values": 0.5},
    "nodes.encoder.drop_path": 0,
    "nodes.head": {**HEAD, "out": 16},
    "nodes.patch_head": {**HEAD, "out": 12},
    "train.lr": {"peak": PEAK, "base": None, "per": None, "warmup": "1 epoch", "end": 1e-6},
    "train.clip.norm": CLIP,
    "train.epoch": None,
    "train.amp": "none",
}


@pytest.fixture
def method() -> Method:
    return compiled()


def compiled(preset: str | None = None, **changes: Any) -> Method:
    graph = sslgraph.load("dinov2", preset=preset, set={**SMALL, **changes})
    method = sslgraph.compile(graph, seed=SEED)
    method.clock.set(total_steps=RUN.total_steps, steps_per_epoch=RUN.steps_per_epoch)
    views = method.nodes["crops"]  # they are computed in float32
    views.register_forward_hook(lambda node, given, made: [crops.double() for crops in made])
    return method.double()


@pytest.fixture
def by_hand(method: Method) -> Trainer:
    student = Network("vit_tiny_patch16_224", {**ARGS, "init_values": 0.5}, SIZES).double()
    for ours, theirs in _pairs(method.nodes, student):
        theirs.data.copy_(ours.data.view_as(theirs))
    return Trainer(student, CLIP)


def _pairs(nodes: Any, hand: Network) -> Iterator[tuple[Tensor, Tensor]]:
    encoder: Any = nodes["encoder"]
    yield from zip(encoder.model.parameters(), hand.backbone.parameters(), strict=True)
    yield encoder.mask_token, hand.mask_token
    for head, last, theirs in (
        ("head", "scores", hand.head),
        ("patch_head", "patch_scores", hand.patch_head),
    ):
        yield from zip(nodes[head].layers.parameters(), theirs.mlp.parameters(), strict=True)
        weight = theirs.last.parametrizations.weight
        yield from ((nodes[last].g, weight.original0), (nodes[last].v, weight.original1))


def teacher_of(method: Method) -> dict[str, Any]:
    slow: Any = method.nodes["teacher"]
    patch: Any = method.nodes["patch_teacher"]
    return {**dict(slow.members.items()), **dict(patch.members.items())}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth coloured pictures."""
    wave = torch.linspace(0, 6, 20, dtype=torch.float64)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(BATCH * 3).view(BATCH, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() + 1) / 2


def test_three_steps_are_equal(method: Method, by_hand: Trainer, images: Tensor) -> None:
    """Loss, its three terms, gradients, weights and both teachers, from the same views and masks.

    The last layers stand still for the first epoch, while their moments gather.
    """
    last: Any = method.nodes["patch_scores"]
    before = last.v.detach().clone()
    spec, nodes = method.graph.train, method.graph.nodes
    own = {name: node.train for name, node in nodes.items()}
    groups = parameter_groups(method, method.parameters_by_node(), spec, own, RUN)
    updater = Updater(method, build_optimizer(spec, groups), groups, spec, RUN, SEED)
    for step in range(3):
        numbers = _numbers(step)
        batch = {"image": images, "index": torch.arange(BATCH) + step * BATCH}
        large, small, masks = method.run({}, FED, batch).values()
        assert masks.any()
        assert not masks.flatten(0, 1).any(1).all()  # some crops stay whole
        loss = by_hand.forward(large, small, masks, numbers.temperature)
        by_hand.backward(loss)
        done = updater.begin([batch], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-6, atol=0)
        for name, value in by_hand.terms.items():
            assert float(done.terms[name]) == pytest.approx(value, rel=1e-6)
        for ours, theirs in _pairs(method.nodes, by_hand.student):
            assert ours.grad is not None
            assert theirs.grad is not None
            torch.testing.assert_close(ours.grad.view_as(theirs), theirs.grad, rtol=1e-4, atol=1e-8)
        by_hand.update(numbers)
        assert updater.finish(done) == ""
        for ours, theirs in _pairs(method.nodes, by_hand.student):
            torch.testing.assert_close(ours.view_as(theirs), theirs, rtol=1e-4, atol=1e-7)
        for ours, theirs in _pairs(teacher_of(method), by_hand.teacher):
            torch.testing.assert_close(ours.view_as(theirs), theirs, rtol=1e-4, atol=1e-7)
        assert torch.equal(last.v, before) == numbers.frozen


def _numbers(step: int) -> Numbers:
    """The recipe's schedules: warm-up over one epoch of two steps, eight steps in all."""
    half = (1 + math.cos(math.pi * step / 8)) / 2
    falling = (1 + math.cos(math.pi * (step - 2) / 6)) / 2
    return Numbers(
        lr=PEAK * step / 2 if step < 2 else 1e-6 + (PEAK - 1e-6) * falling,
        weight_decay=0.2 + (0.04 - 0.2) * half,
        momentum=1 + (0.994 - 1) * half,
        temperature=0.04 + 0.03 * step / 60,
        frozen=step < 2,
    )


def test_pairs_and_the_batch_of_the_paper() -> None:
    plan = make_plan(sslgraph.load("dinov2"))
    assert len(plan.step("dino").pairs) == 18
    assert plan.step("ibot").pairs == ((0, 0), (1, 1))
    rate = plan.graph.train.lr.scaled(plan.graph.train.batch_size)
    assert rate == pytest.approx(3.4641e-4, rel=1e-5)


@pytest.mark.parametrize("only", ["dino", "ibot"])
def test_a_term_alone_checks_and_prunes(only: str, images: Tensor) -> None:
    """What the other term needs is left out, with a warning that says what."""
    others = {f"minimize.{name}": None for name in ("dino", "ibot", "koleo") if name != only}
    method = compiled(**others)
    kept = {step.name for step in method.plan.steps}
    patches = {"patch_head", "patch_scores", "patch_teacher", "patch_target", "hidden", "seen"}
    crops = {"local", "target", "dino"}
    gone = {"dino": patches | {"masks"}, "ibot": crops}[only]
    left = kept & (patches | crops)
    assert not left & gone
    step = method({"image": images, "index": torch.arange(BATCH)})
    step.loss.backward()
    assert list(step.terms) == [only]


def test_centers_in_the_place_of_sinkhorn(images: Tensor) -> None:
    """The center of patches is the mean over hidden ones alone."""
    method = compiled(preset="centering")
    batch = {"image": images, "index": torch.arange(BATCH)}
    logits, weight = method.run({}, ["patch_teacher", "seen.weight"], batch).values()
    method(batch)
    center: Any = method.nodes["patch_center"].center
    rows = logits[weight > 0]
    torch.testing.assert_close(center[0], rows.mean(0) / 10, rtol=1e-5, atol=1e-8)


def test_golden_sinkhorn() -> None:
    """Of the released class at temperature 0.07; columns are even only as far as three rounds."""
    scores = [[0.1, 0.2, 0.3], [0.3, 0.1, 0.0], [0.2, 0.2, 0.1], [0.0, 0.4, 0.1]]
    node: Any = make_node("sinkhorn", temperature=0.07).double()
    made = node(x=torch.tensor([scores], dtype=torch.float64))[0]
    expected = [
        [0.024780, 0.051318, 0.923903],
        [0.945200, 0.026942, 0.027858],
        [0.497639, 0.246983, 0.255378],
        [0.006234, 0.938059, 0.055707],
    ]
    torch.testing.assert_close(made, torch.tensor(expected).double(), rtol=0, atol=2e-6)


def test_it_fits_on_a_screen() -> None:
    """At most 90 lines of at most 100 columns as `show` prints it, presets not counted."""
    shown = sslgraph.load("dinov2").document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= 90
    assert max(map(len, shown)) <= 100
