"""MaskFeat as a graph against MaskFeat written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.joint import RUN, updater_of
from tests.methods.maskfeat_by_hand import MaskFeat, histograms

SEED, BATCH = 4, 6
SIZES = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL: dict[str, Any] = {
    "vars.arch": "vit_tiny_patch16_224",
    "vars.size": 64,
    "vars.patch": 8,
    "vars.cell": 4,
    "nodes.mask.patches": 24,
    "nodes.mask.min_block": 10,
    **{f"nodes.encoder.args.{name}": value for name, value in SIZES.items()},
    "train.lr.warmup": "0 steps",
}


@pytest.fixture
def images() -> Tensor:
    """Noise: where pictures are flat, rounding alone says where an edge points to."""
    shape = (BATCH, 3, 70, 70)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture
def method() -> Any:
    made = sslgraph.compile(sslgraph.load("maskfeat", set=SMALL), seed=SEED)
    made.clock.set(total_steps=RUN.total_steps, steps_per_epoch=RUN.steps_per_epoch)
    return made


@pytest.fixture
def by_hand(method: Any) -> MaskFeat:
    hand = MaskFeat("vit_tiny_patch16_224", 64, 8, 4, **SIZES)
    hand.encoder.load_state_dict(method.nodes["encoder"].model.state_dict())
    hand.mask_token.data.copy_(method.nodes["encoder"].mask_token)
    hand.head.load_state_dict(method.nodes["head"].layer.state_dict())
    return hand.train()


def batch(images: Tensor) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(len(images))}


def test_loss_gradients_and_weights_are_equal_over_three_steps(
    method: Any, by_hand: MaskFeat, images: Tensor
) -> None:
    """In float64, with the run's own optimizer: decay, clipping at 0.02 and rate of the recipe."""
    method.double()
    by_hand.double()
    updater = updater_of(method, SEED)
    method.nodes["view"].register_forward_hook(lambda node, given, made: made.double())
    pairs = _pairs(method, by_hand)
    assert sum(p.numel() for g in updater.groups for p in g.parameters) == sum(
        p.numel() for p, _ in pairs.values()
    )
    large = [p for _, p in pairs.values() if p.ndim > 1]
    small = [p for _, p in pairs.values() if p.ndim <= 1]
    descent = torch.optim.AdamW(
        [{"params": large, "weight_decay": 0.05}, {"params": small, "weight_decay": 0.0}]
    )
    for step in range(3):
        data = batch(images) | {"index": torch.arange(BATCH) + step * BATCH}
        made = method.run({}, ["view", "mask"], data)
        by_hand.zero_grad()
        loss = by_hand(made["view"][0], made["mask"][0])
        loss.backward()
        done = updater.begin([data], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-9, atol=0)
        for name, (ours, theirs) in pairs.items():
            assert ours.grad is not None, name
            assert _close(ours.grad, theirs.grad), name
        length = nn.utils.clip_grad_norm_(by_hand.parameters(), 0.02)
        assert length > 0.02  # so that clipping is seen
        peak, end = 2e-4 * 2048 / 256, 1e-6
        wave = (1 + math.cos(math.pi * step / RUN.total_steps)) / 2
        for group in descent.param_groups:
            group["lr"] = end + (peak - end) * wave
        descent.step()
        assert updater.finish(done) == ""
        for name, (ours, theirs) in pairs.items():
            assert _close(ours, theirs), name


def test_a_loss_over_all_patches_is_seen(method: Any, by_hand: MaskFeat, images: Tensor) -> None:
    """The comparison can fail: without the mask the loss is the mean over visible ones too."""
    made = method.run({}, ["view", "mask", "loss"], batch(images))
    assert len(set(made["mask"][0].sum(1).tolist())) > 1  # of the batch, not of each image
    theirs = by_hand(made["view"][0], made["mask"][0])
    torch.testing.assert_close(made["loss"], theirs, rtol=1e-5, atol=0)
    other = {**SMALL, "nodes.loss.in": {"prediction": "head", "target": "target"}}
    wrong = sslgraph.compile(sslgraph.load("maskfeat", set=other), seed=SEED)
    assert not torch.allclose(wrong(batch(images)).loss, theirs, rtol=1e-3)


def test_targets_are_of_the_normalised_view(method: Any, images: Tensor) -> None:
    made = method.run({}, ["view", "target"], batch(images))
    expected = histograms(made["view"][0].double(), 8, 4)
    torch.testing.assert_close(made["target"][0].double(), expected, rtol=0, atol=1e-4)
    lengths = made["target"].view(1, BATCH, 64, 3, 9, 2, 2).norm(dim=4)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-5)


def test_hidden_pixels_reach_the_loss_only_as_target(method: Any, images: Tensor) -> None:
    made = method.run({}, ["view", "mask", "head", "target"], batch(images))
    hidden = made["mask"].view(1, BATCH, 1, 8, 8).repeat_interleave(8, 3).repeat_interleave(8, 4)
    changed = torch.where(hidden, made["view"].flip(3, 4), made["view"])
    feed = {"view": changed, "mask": made["mask"]}
    after = method.run(feed, ["head", "target"], batch(images))
    assert torch.equal(after["head"], made["head"])
    assert not torch.allclose(after["target"], made["target"], rtol=1e-3)


def test_evaluation_sees_the_whole_image(method: Any, images: Tensor) -> None:
    encoder = method.nodes["encoder"].model
    made = method.outputs({"image": images})
    with method.evaluating():
        view = method.run({}, ["view"], batch(images))["view"][0]
        whole = encoder.forward_features(view)
    torch.testing.assert_close(made["tokens"][0], whole[:, 1:])


def test_sizes_of_the_recipe() -> None:
    """108 numbers of each of 14 x 14 patches; 40 % of them hidden; first weights of the head."""
    graph = sslgraph.load("maskfeat")
    sizes = report(graph).sizes
    assert sizes is not None
    assert sizes.shapes["target", "y"][2:] == sizes.shapes["head", "y"][2:] == (196, 108)
    assert sizes.parameters["head"] == 108 * 769
    mask: Any = graph.nodes["mask"].settings
    assert (mask["patches"], mask["min_block"]) == (round(196 * 0.4), 78 // 5)


def test_learning_rate_and_decay_of_the_recipe(method: Any) -> None:
    spec = sslgraph.load("maskfeat").train
    assert (spec.optimizer, spec.betas, spec.weight_decay) == ("adamw", (0.9, 0.999), 0.05)
    assert spec.clip is not None
    assert spec.clip.norm == 0.02
    horizon = Horizon(total_steps=300 * 625, steps_per_epoch=625)
    rates = {0: 1e-6, 15: (1e-6 + 1.6e-3) / 2, 30: 1.6e-3, 165: (1.6e-3 + 1e-6) / 2, 300: 1e-6}
    for epoch, expected in rates.items():
        rate = learning_rate(spec.lr, spec.batch_size, epoch * 625, horizon)
        assert rate == pytest.approx(expected, abs=1e-12)
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, horizon)
    by_decay = {group.rule.weight_decay: set(group.names) for group in groups}
    decayed, others = by_decay[0.05], by_decay[0.0]
    assert {"encoder.model.pos_embed", "encoder.model.cls_token", "encoder.mask_token"} <= decayed
    assert {"encoder.model.norm.weight", "head.layer.bias"} <= others


def _pairs(method: Any, by_hand: MaskFeat) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Every trained parameter of the graph and the one by hand."""
    theirs = dict(by_hand.named_parameters())
    found = {}
    for node, prefix in (("encoder", ""), ("head", "head.")):
        for name, parameter in method.nodes[node].named_parameters():
            key = name.replace("model.", "encoder.").replace("layer.", prefix)
            found[f"{node}.{name}"] = parameter, theirs.pop(key)
    assert not theirs
    return found


def _close(a: Tensor, b: Tensor | None) -> bool:
    assert b is not None
    return torch.allclose(a, b, rtol=1e-6, atol=1e-9)
