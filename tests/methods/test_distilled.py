"""Sizes, crops and schedules of the self-distillation methods, as their released code has them.

DINO: main_dino.py, vision_transformer.py and the README's commands (facebookresearch/dino). iBOT:
main_ibot.py and the README (bytedance/ibot). EsViT: main_esvit.py and the README
(microsoft/esvit). MSN: configs/pretrain/msn_vits16.yaml and src/msn_train.py
(facebookresearch/msn). DINOv2: dinov2/configs/train/vitl14.yaml over ssl_default_config.yaml
(facebookresearch/dinov2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

import sslgraph
from sslgraph.check_sizes import Sizes, measure
from sslgraph.plan import make_plan
from sslgraph.schedules import Schedule
from sslgraph.spec import Graph
from sslgraph.train.rates import Horizon, learning_rate, number_at
from tests.methods.distilled import RUN, batch_of


@cache
def shipped(name: str) -> Graph:
    return sslgraph.load(name)


@cache
def sizes(name: str) -> Sizes:
    """Of the published model, with fewer blocks: they change no size that is looked at."""
    args = {"depths": [1, 1, 1, 1]} if name == "esvit" else {"depth": 1}
    found = measure(make_plan(sslgraph.load(name, set={"nodes.encoder.args": args})))
    assert not found.problems
    return found


def shape(name: str, port: str) -> tuple[int, ...]:
    """Without the batch."""
    node, _, out = port.partition(".")
    views, _, *rest = sizes(name).shapes[node, out]
    return (views, *rest)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 224 / 16 = 14 and 96 / 16 = 6 patches a side, and a class token
        ("dino", {"encoder.tokens": (2, 196, 384), "encoder.sequence": (2, 197, 384)}),
        ("dino", {"local.tokens": (8, 36, 384), "local.sequence": (8, 37, 384)}),
        ("dino", {"prototypes.y": (10, 65536), "teacher.prototypes.y": (2, 65536)}),
        ("ibot", {"encoder.tokens": (2, 196, 384), "local.tokens": (10, 36, 384)}),
        ("ibot", {"prototypes.y": (12, 8192), "slow_patches.prototypes.y": (2, 196, 8192)}),
        # Swin has no class token and a 32nd of the pixels: 7 x 7 and 3 x 3 regions
        ("esvit", {"encoder.sequence": (2, 49, 768), "local.tokens": (8, 9, 768)}),
        ("esvit", {"regions.y": (2, 49, 65536), "seen.regions.y": (2, 49, 65536)}),
        # 166 of 196 patches of the one anchor; ten focal crops and the one target are whole
        ("msn", {"encoder.sequence": (1, 167, 384), "focal.encoder.tokens": (10, 36, 384)}),
        ("msn", {"teacher.encoder.tokens": (1, 196, 384), "prototypes.y": (11, 1024)}),
        # 224 / 14 = 16 and 98 / 14 = 7 a side; a class token and four registers, in no patch loss
        ("dinov2", {"encoder.tokens": (2, 256, 1024), "encoder.sequence": (2, 261, 1024)}),
        ("dinov2", {"local.tokens": (8, 49, 1024), "local.sequence": (8, 54, 1024)}),
        ("dinov2", {"scores.y": (10, 131072), "teacher.scores.y": (2, 131072)}),
        # at most half of the patches are hidden, and only these go through the head
        ("dinov2", {"head.y": (10, 384), "patch_head.y": (2, 128, 256)}),
    ],
)
def test_sizes(name: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert {port: shape(name, port) for port in expected} == expected


@pytest.mark.parametrize(
    ("name", "nodes", "expected"),
    [
        ("dino", ["projector", "prototypes"], 22_352_128),
        ("esvit", ["head", "scores"], 23_138_560),
        ("esvit", ["region_head", "regions"], 23_138_560),
        ("dinov2", ["head", "scores"], 57_545_088),
        ("dinov2", ["patch_head", "patch_scores"], 40_505_600),
        # three layers with biases 384-2048-2048-256, as DINO's; 8192 directions and lengths
        ("ibot", ["projector", "prototypes"], 788_480 + 4_196_352 + 524_544 + 8192 * 257),
        ("ibot", ["patches", "slow_patches"], 0),
        # the same three layers, and batch norm behind the first two
        ("msn", ["projector"], 788_480 + 4_196_352 + 524_544 + 2 * 2 * 2048),
    ],
)
def test_parameters_of_heads(name: str, nodes: list[str], expected: int) -> None:
    assert sum(sizes(name).parameters[node] for node in nodes) == expected


def dino_operations(blur: tuple[float, float]) -> list[dict[str, Any]]:
    """`DataAugmentationDINO`; the two large crops differ in blur and solarize."""
    return [
        {"flip": 0.5},
        {"jitter": [0.4, 0.4, 0.2, 0.1], "p": 0.8},
        {"gray": 0.2},
        {"blur": [0.1, 2.0], "p": {"global": {"each": list(blur)}, "local": 0.5}},
        {"solarize": 0.5, "p": {"global": {"each": [0, 0.2]}, "local": 0}},
        {"normalize": "imagenet"},
    ]


DINO_OPERATIONS = dino_operations((1.0, 0.1))
Crops = dict[str, tuple[int, int, list[float], str]]


def large_and_small(views: int, size: int, share: float) -> Crops:
    """Two large crops from at least that share of an image, and small ones from at most it."""
    return {
        "global": (2, 224, [share, 1], "bicubic"),
        "local": (views, size, [0.05, share], "bicubic"),
    }


@pytest.mark.parametrize(
    ("name", "crops", "operations"),
    [
        ("dino", large_and_small(8, 96, 0.4), DINO_OPERATIONS),
        ("ibot", large_and_small(10, 96, 0.25), DINO_OPERATIONS),
        ("esvit", large_and_small(8, 96, 0.4), DINO_OPERATIONS),
        # released with 1 - p in the place of p for the blur of large crops
        ("dinov2", large_and_small(8, 98, 0.32), dino_operations((1 - 1.0, 1 - 0.1))),
        (
            "msn",
            {
                "target": (1, 224, [0.3, 1], "bilinear"),
                "anchor": (1, 224, [0.3, 1], "bilinear"),
                "focal": (10, 96, [0.05, 0.3], "bilinear"),
            },
            [
                {"flip": 0.5},
                {"jitter": [0.4, 0.4, 0.4, 0.1], "p": 0.8},  # 0.8, 0.8, 0.8, 0.2 x strength 0.5
                {"gray": 0.2},
                {"blur": [0.1, 2.0], "p": 0.5},
                {"normalize": "imagenet"},
            ],
        ),
    ],
)
def test_crops(name: str, crops: Crops, operations: list[dict[str, Any]]) -> None:
    settings = shipped(name).nodes["crops"].settings
    groups: Any = settings["crops"]
    found = {
        group: (one["views"], one["size"], one["scale"], one.get("interpolation", "bilinear"))
        for group, one in groups.items()
    }
    assert found == crops
    assert settings["ops"] == operations


EPOCH = 1250  # steps, of DINOv2 by definition; the others have no number to which these are bound


@dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    Args:
        batch: Images of a step.
        epochs: Passes of the run.
        warmup: Epochs until the learning rate is highest.
        peak: The highest learning rate, at this batch.
        decay: Weight decay at the start, in the middle of the run, and at its end.
        momentum: Of the slow copy, likewise.
        drop: Highest rate of stochastic depth of the student.
    """

    batch: int
    epochs: int
    warmup: int
    peak: float
    decay: tuple[float, float, float] = (0.04, 0.22, 0.4)
    momentum: tuple[float, float, float] = (0.996, 0.998, 1.0)
    drop: float = 0.1


RECIPES = {
    "dino": Recipe(512, 100, 10, 5e-4 * 2),
    "ibot": Recipe(1024, 800, 10, 5e-4 * 4),
    "esvit": Recipe(512, 300, 10, 5e-4 * 2),
    "dinov2": Recipe(3072, 500, 80, 3.4641e-4, (0.04, 0.12, 0.2), (0.994, 0.997, 1.0), drop=0.4),
}


@pytest.mark.parametrize("name", RECIPES)
def test_training(name: str) -> None:
    """MSN's numbers, whose schedules reach beyond the run, are with its own tests."""
    recipe, graph = RECIPES[name], shipped(name)
    train = graph.train
    assert (train.optimizer, train.betas, train.eps) == ("adamw", (0.9, 0.999), 1e-8)
    assert (train.batch_size, train.epochs) == (recipe.batch, recipe.epochs)
    total = recipe.epochs * EPOCH
    run = Horizon(total_steps=total, steps_per_epoch=EPOCH)
    steps = (0, recipe.warmup * EPOCH, total)
    rates = [learning_rate(train.lr, recipe.batch, step, run) for step in steps]
    assert rates == pytest.approx([0, recipe.peak, 1e-6], rel=1e-5)
    teacher = graph.nodes["teacher"].settings
    momentum = Schedule.model_validate(teacher["momentum"])
    for schedule, expected in ((train.weight_decay, recipe.decay), (momentum, recipe.momentum)):
        found = [number_at(schedule, step, run) for step in (0, total // 2, total)]
        assert found == pytest.approx(expected)
    drops = (graph.nodes["encoder"].settings["drop_path"], teacher["drop_path"])
    assert drops == (recipe.drop, 0)


def test_an_epoch_of_dinov2_is_1250_steps() -> None:
    train = shipped("dinov2").train
    assert str(train.epoch) == "1250 steps"
    assert train.epochs is not None
    assert train.epochs * EPOCH == 625_000
    run = Horizon(total_steps=625_000, steps_per_epoch=EPOCH)
    rates = [learning_rate(train.lr, 3072, step, run) for step in (99_999, 100_000, 100_001)]
    assert max(rates) == rates[1] == pytest.approx(3.4641e-4, rel=1e-5)
    scales = train.lr.scale
    assert scales is not None
    assert (scales.patch_embed, train.lr.layer_decay) == (0.2, 1.0)


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("dino", "tensor"),
        ("ibot", "tensor"),
        ("esvit", "tensor"),
        ("msn", [["encoder", "projector"]]),  # its prototypes are no part of the model
        ("dinov2", [["encoder"], ["head", "scores"], ["patch_head", "patch_scores"]]),
    ],
)
def test_gradients_are_at_most_3_long(name: str, scope: str | list[list[str]]) -> None:
    clip = shipped(name).train.clip
    assert clip is not None
    assert (clip.norm, clip.scope) == (3, scope)


@pytest.mark.parametrize(
    ("name", "nodes", "how"),
    [
        ("dino", ["prototypes"], "no_grad"),
        ("ibot", ["prototypes"], "no_grad"),
        ("esvit", ["scores", "regions"], "no_grad"),
        ("dinov2", ["scores", "patch_scores"], "zero_lr"),
    ],
)
def test_last_layers_stand_still_for_an_epoch(name: str, nodes: list[str], how: str) -> None:
    """Without gradients in DINO's code, so that no moments gather; at rate zero in DINOv2's."""
    for node in nodes:
        own = shipped(name).nodes[node].train
        assert own is not None
        assert (str(own.freeze), own.how) == ("1 epoch", how)


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("dino", "target"),
        ("ibot", "target"),
        ("ibot", "patch_target"),
        ("esvit", "target"),
        ("esvit", "region_target"),
    ],
)
def test_temperatures_of_targets(name: str, node: str) -> None:
    """np.linspace(0.04, 0.07, 30), a value an epoch, then the last one."""
    schedule = Schedule.model_validate(shipped(name).nodes[node].settings["temperature"])
    run = Horizon(total_steps=1000, steps_per_epoch=10)
    values = [number_at(schedule, 10 * epoch, run) for epoch in (0, 1, 15, 29, 99)]
    assert values == pytest.approx([0.04, 0.0410345, 0.0555172, 0.07, 0.07], abs=5e-8)
    assert number_at(schedule, 19, run) == values[1]


@pytest.mark.parametrize("node", ["target", "patch_target"])
def test_temperatures_of_dinov2(node: str) -> None:
    """np.linspace(0.04, 0.07, 30 * 1250), a value a step, has both ends.

    Ours has 0.07 a step later, and is lower by 0.03 / 37500 at the most.
    """
    schedule = Schedule.model_validate(shipped("dinov2").nodes[node].settings["temperature"])
    run = Horizon(total_steps=625_000, steps_per_epoch=EPOCH)
    values = [number_at(schedule, step, run) for step in (0, 18_750, 37_499, 37_500, 624_999)]
    assert values == pytest.approx([0.04, 0.0550004, 0.07, 0.07, 0.07], abs=0.03 / 37_500)
    assert values[3:] == [0.07, 0.07]


@pytest.mark.parametrize(
    ("name", "student", "expected"),
    [
        ("dino", ["prototypes"], {"loss": 1}),
        ("ibot", ["prototypes", "patches"], {"classes": 1, "hidden": 1}),
        ("esvit", ["scores", "regions", "local_regions"], {"views": 1, "near": 2, "far": 4}),
        ("msn", ["prototypes"], {"loss": 1, "spread": 0}),
        ("dinov2", ["scores", "patch_scores"], {"dino": 1, "ibot": 1}),
    ],
)
def test_an_even_prediction_costs_ln_k(
    name: str, student: list[str], expected: dict[str, float]
) -> None:
    """The loss of uniform collapse, whatever the targets: 11.09 for 65536 prototypes.

    In a patch loss crops without a mask count as zero, so it has that times the share of the
    others; of EsViT's regions there are sums over 2 and 4 pairs.
    """
    method = sslgraph.compile(sslgraph.load(name, preset="tiny"))
    method.clock.set(total_steps=RUN.total_steps, steps_per_epoch=RUN.steps_per_epoch)
    batch = batch_of(6, 40)
    made = method.run({}, student, batch)
    even = {node: torch.zeros_like(logits) for node, logits in made.items()}
    found = method.run(even, list(expected), batch)
    ln_k = math.log(made[student[0]].shape[-1])
    for loss, times in expected.items():
        level = times * ln_k
        if loss in ("hidden", "ibot"):
            masks = method.run({}, ["masks"], batch)["masks"]
            level *= masks.any(-1).double().mean().item()
            assert 0 < level < ln_k
        assert found[loss].item() == pytest.approx(level, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "most"), [("dino", 55), ("ibot", 90), ("esvit", 90), ("msn", 65), ("dinov2", 90)]
)
def test_it_fits_on_a_screen_or_two(name: str, most: int) -> None:
    """Lines of at most 100 columns as `show` prints them, presets not counted."""
    shown = shipped(name).document.text.split("\npresets:")[0].splitlines()
    assert len(shown) <= most
    assert max(map(len, shown)) <= 100
