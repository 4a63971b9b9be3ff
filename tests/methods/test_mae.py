"""MAE as a graph against MAE written by hand, and the numbers of its recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.mae_by_hand import Mae, make_views, orders

SEED = 4
SMALL = {
    "vars.arch": "test_vit",
    "vars.size": 64,
    "nodes.decoder.width": 24,
    "nodes.decoder.depth": 2,
    "nodes.decoder.heads": 3,
}
RATIO = 0.75


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Six smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, 74)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(6 * 3).view(6, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


@pytest.fixture
def method() -> Any:
    made = sslgraph.compile(sslgraph.load("mae", set=SMALL), seed=SEED)
    made.clock.set(total_steps=100, steps_per_epoch=10)
    return made


@pytest.fixture
def by_hand(method: Any) -> Mae:
    hand = Mae("test_vit", 64, 16, 24, 2, 3)
    for part, state in {
        hand.encoder: method.nodes["encoder"].model.state_dict(),
        hand: {f"{k}": v for k, v in method.nodes["decoder"].state_dict().items()},
    }.items():
        assert not part.load_state_dict(state, strict=False).unexpected_keys
    return hand.train()


def batch(images: Tensor) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(len(images))}


def test_views_and_masks_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    made = method.run({}, ["view", "mask"], batch(images))
    expected = make_views(images.float() / 255, SEED, 64)
    assert torch.allclose(made["view"][0], expected, rtol=0, atol=1e-6)
    visible = orders(6, SEED, 16)[:, :4].sort(1).values
    for row, places in zip(made["mask"][0], visible, strict=True):
        assert (~row).nonzero().flatten().tolist() == places.tolist()


def test_loss_and_gradients_are_equal_over_three_steps(
    method: Any, by_hand: Mae, images: Tensor
) -> None:
    """Under AdamW as published: no decay of biases and of what has one axis."""
    method.double()
    by_hand.double()
    named = list(_pairs(method, by_hand))
    decayed = [[p[side] for _, *p in named if p[0].ndim > 1] for side in range(2)]
    others = [[p[side] for _, *p in named if p[0].ndim <= 1] for side in range(2)]
    descents = [
        torch.optim.AdamW(
            [{"params": large, "weight_decay": 0.05}, {"params": small, "weight_decay": 0.0}],
            lr=1e-3,
            betas=(0.9, 0.95),
        )
        for large, small in zip(decayed, others, strict=True)
    ]
    for step in range(3):
        views = make_views(images.float() / 255, SEED + step, 64).double()
        ours = method.run({"view": views[None]}, ["loss"], batch(images))["loss"]
        theirs = by_hand(views, orders(6, SEED, 16), RATIO)
        assert torch.allclose(ours, theirs, rtol=1e-9)
        for descent, loss in zip(descents, (ours, theirs), strict=True):
            descent.zero_grad()
            loss.backward()
        for name, mine, other in named:
            assert mine.grad is not None, name
            assert other.grad is not None, name
            assert torch.allclose(mine.grad, other.grad, rtol=1e-7, atol=1e-10), name
        for descent in descents:
            descent.step()
        method.after_step()


def test_a_loss_over_all_patches_is_seen(method: Any, by_hand: Mae, images: Tensor) -> None:
    """The comparison can fail: without the mask the loss is the mean over visible ones too."""
    other = {**SMALL, "nodes.loss.in": {"prediction": "decoder", "target": "target"}}
    wrong = sslgraph.compile(sslgraph.load("mae", set=other), seed=SEED)
    theirs = by_hand(make_views(images.float() / 255, SEED, 64), orders(6, SEED, 16), RATIO)
    assert torch.allclose(method(batch(images)).loss, theirs, rtol=1e-5)
    assert not torch.allclose(wrong(batch(images)).loss, theirs, rtol=1e-3)


def test_dropped_patches_are_never_computed(method: Any, images: Tensor) -> None:
    counts: list[int] = []
    for block in method.nodes["encoder"].model.blocks:
        block.register_forward_hook(lambda _, x, y: counts.append(y.shape[1]))
    method(batch(images))
    assert counts == [1 + 4] * len(method.nodes["encoder"].model.blocks)


def test_hidden_pixels_reach_the_loss_only_as_target(method: Any, images: Tensor) -> None:
    made = method.run({}, ["view", "mask", "decoder", "loss"], batch(images))
    hidden = made["mask"].view(1, 6, 1, 4, 4).repeat_interleave(16, 3).repeat_interleave(16, 4)
    changed = torch.where(hidden, made["view"].flip(3, 4), made["view"])
    after = method.run({"view": changed}, ["decoder", "loss"], batch(images))
    assert torch.equal(after["decoder"], made["decoder"])
    assert not torch.allclose(after["loss"], made["loss"], rtol=1e-3)


def test_a_prediction_of_zero_has_the_loss_of_normalised_pixels(
    method: Any, images: Tensor
) -> None:
    """(n - 1) / n of the unbiased variance of n = 768 numbers: 0.9987."""
    zero = torch.zeros(1, 6, 16, 768)
    loss = method.run({"decoder": zero}, ["loss"], batch(images))["loss"]
    assert loss.item() == pytest.approx(767 / 768, abs=1e-5) == pytest.approx(0.9987, abs=1e-4)


def test_evaluation_sees_the_whole_image(method: Any, images: Tensor) -> None:
    encoder = method.nodes["encoder"].model
    made = method.outputs({"image": images})
    with method.evaluating():
        view = method.run({}, ["view"], batch(images))["view"][0]
        whole = encoder.forward_features(view)
    assert torch.equal(made["tokens"][0], whole[:, 1:])
    assert torch.equal(made["embedding"][0], whole[:, 0])


def test_sizes_of_the_recipe() -> None:
    """49 of 196 patches; widths and parameters of encoder (without its table) and decoder."""
    sizes = report(sslgraph.load("mae")).sizes
    assert sizes is not None
    assert sizes.shapes["encoder", "tokens"][2:] == (49, 768)
    assert sizes.shapes["encoder", "sequence"][2:] == (50, 768)
    assert sizes.shapes["decoder", "y"][2:] == (196, 768)
    assert sizes.parameters["decoder"] == 26_008_320
    block = 12 * 768 * 768 + 13 * 768  # 4 + 8 matrices; biases 3 + 1 + 4 + 1, norms 2 + 2
    expected = (768 * 768 + 768) + 768 + 12 * block + 2 * 768
    assert sizes.parameters["encoder"] - 197 * 768 == expected == 85_647_360


def test_learning_rate_and_decay_of_the_recipe(method: Any) -> None:
    spec = method.graph.train
    assert (spec.optimizer, spec.betas, spec.weight_decay) == ("adamw", (0.9, 0.95), 0.05)
    horizon = Horizon(total_steps=800 * 312, steps_per_epoch=312)
    rates = {0: 0, 20: 1.2e-3, 40: 2.4e-3, 420: 1.2e-3, 800: 0}
    for epoch, expected in rates.items():
        rate = learning_rate(spec.lr, spec.batch_size, epoch * 312, horizon)
        assert rate == pytest.approx(expected, abs=1e-12)
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, horizon)
    by_decay = {group.rule.weight_decay: set(group.names) for group in groups}
    decayed, others = by_decay[0.05], by_decay[0.0]
    assert {"encoder.model.cls_token", "decoder.mask_token", "decoder.head.weight"} <= decayed
    assert {"encoder.model.norm.weight", "decoder.embed.bias", "decoder.norm.bias"} <= others
    assert not any("pos_embed" in name for name in decayed | others)
    shapes = {
        f"{node}.{name}": parameter.ndim
        for node, named in method.parameters_by_node().items()
        for name, parameter in named.items()
    }
    assert {name for name, axes in shapes.items() if axes > 1} == decayed


def _pairs(method: Any, by_hand: Mae) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """Every trained parameter of the graph and the one by hand."""
    theirs = {k: p for k, p in by_hand.named_parameters() if p.requires_grad}
    for node, prefix in (("encoder", "encoder."), ("decoder", "")):
        for name, parameter in method.nodes[node].named_parameters():
            if parameter.requires_grad:
                yield name, parameter, theirs.pop(prefix + name.removeprefix("model."))
    assert not theirs
