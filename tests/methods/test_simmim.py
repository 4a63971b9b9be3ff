"""SimMIM as a graph against SimMIM written by hand, and the numbers of its recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.nodes.base import make_node
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.simmim_by_hand import Simmim, loss_of, make_masks, make_views, rows_of_decoder

SEED = 4
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2}
STAGES = {"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "window_size": 2}
VIT = {
    "vars.size": 64,
    "nodes.encoder.drop_path": 0,
    **{f"nodes.encoder.args.{name}": value for name, value in TINY.items()},
}
SWIN = {
    "vars.size": 64,
    **{f"nodes.encoder.args.{name}": value for name, value in STAGES.items()},
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Six smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, 74)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(6 * 3).view(6, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


def graph_and_hand(preset: str | None) -> tuple[Any, Simmim]:
    """The method, and the one by hand with its weights."""
    graph = sslgraph.load("simmim", preset=preset, set=SWIN if preset else VIT)
    method: Any = sslgraph.compile(graph, seed=SEED)
    method.clock.set(total_steps=100, steps_per_epoch=10)
    node, stride = method.nodes["encoder"], 32 if preset else 16
    args = {k: v for k, v in node.model_args.items() if k not in ("num_classes", "img_size")}
    hand = Simmim(node.config.arch, 64, stride, **args)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in node.named_parameters():  # tables of positions begin at or near zero
        if "relative_position" in name:
            nn.init.normal_(parameter, generator=generator)
    hand.encoder.load_state_dict(node.model.state_dict())
    hand.mask_token.data.copy_(node.mask_token)
    rows = rows_of_decoder(stride)
    layer = method.nodes["head"].layer
    hand.decoder.weight.data[rows] = layer.weight.data[:, :, None, None]
    hand.decoder.bias.data[rows] = layer.bias.data  # type: ignore[union-attr]
    return method, hand.train()


def batch(images: Tensor) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(len(images))}


@pytest.mark.parametrize(("preset", "times"), [(None, 2), ("swin", 1)])
def test_views_and_masks_are_those_of_the_documented_formula(
    preset: str | None, times: int, images: Tensor
) -> None:
    method, _ = graph_and_hand(preset)
    made = method.run({}, ["view", "mask", "target"], batch(images))
    expected = make_views(images.float() / 255, SEED, 64)
    assert torch.allclose(made["view"][0], expected, rtol=0, atol=1e-6)
    masks = make_masks(6, SEED, 2, 0.6).bool()
    assert masks.sum((1, 2)).tolist() == [3] * 6
    fine = masks.repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1)
    assert torch.equal(made["mask"][0], fine)


@pytest.mark.parametrize("preset", [None, "swin"])
def test_loss_and_gradients_are_equal_over_three_steps(preset: str | None, images: Tensor) -> None:
    """A linear layer a token and patches in rows are the 1 x 1 convolution and pixel shuffle."""
    method, hand = graph_and_hand(preset)
    method.double()
    hand.double()
    rows = rows_of_decoder(32 if preset else 16)
    named = list(_pairs(method, hand))
    descents = [
        torch.optim.SGD([p[side] for _, *p in named], lr=0.05, momentum=0.9) for side in range(2)
    ]
    for step in range(3):
        views = make_views(images.float() / 255, SEED + step, 64).double()
        ours = method.run({"view": views[None]}, ["loss"], batch(images))["loss"]
        theirs = hand(views, make_masks(6, SEED, 2, 0.6))
        assert torch.allclose(ours, theirs, rtol=1e-8)
        for descent, loss in zip(descents, (ours, theirs), strict=True):
            descent.zero_grad()
            loss.backward()
        for name, mine, other in named:
            assert mine.grad is not None, name
            assert other.grad is not None, name
            expected = other.grad[rows].reshape(mine.shape) if "head" in name else other.grad
            assert torch.allclose(mine.grad, expected, rtol=1e-6, atol=1e-10), name
        for descent in descents:
            descent.step()
        method.after_step()


def test_a_loss_over_all_pixels_is_seen(images: Tensor) -> None:
    """The comparison can fail: without the mask the visible pixels are in the mean."""
    _, hand = graph_and_hand(None)
    other = {**VIT, "nodes.loss.in": {"prediction": "head", "target": "target"}}
    wrong = sslgraph.compile(sslgraph.load("simmim", set=other), seed=SEED)
    theirs = hand(make_views(images.float() / 255, SEED, 64), make_masks(6, SEED, 2, 0.6))
    assert not torch.allclose(wrong(batch(images)).loss, theirs, rtol=1e-3)


def test_the_loss_of_an_error_of_two() -> None:
    """The released formula gives 1.9999997 where 64 pixels are hidden; the graph's mean is 2."""
    image, hidden = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    image, hidden = image.double(), hidden.double()
    hidden[..., :8, :8] = 1
    released = loss_of(image, image + 2, hidden)
    assert released.item() == pytest.approx(1.9999997, abs=5e-8)
    patches = make_node("patchify", patch=8)
    mask = torch.tensor([[[True, False, False, False]]])
    loss = make_node("smooth_l1", beta=0.0)
    rebuilt = torch.where(hidden > 0, image + 2, image + 70)
    found = loss(patches(rebuilt[None]), patches(image[None]), mask)
    assert found.item() == pytest.approx(released.item(), rel=1e-6)


@pytest.mark.parametrize("preset", [None, "swin"])
def test_hidden_pixels_reach_the_loss_only_as_target(preset: str | None, images: Tensor) -> None:
    method, _ = graph_and_hand(preset)
    made = method.run({}, ["view", "head", "loss"], batch(images))
    cells = make_masks(6, SEED, 2, 0.6).bool()
    hidden = cells.repeat_interleave(32, 1).repeat_interleave(32, 2)[None, :, None]
    changed = torch.where(hidden, made["view"].flip(3, 4), made["view"])
    after = method.run({"view": changed}, ["head", "loss"], batch(images))
    assert torch.equal(after["head"], made["head"])
    assert not torch.allclose(after["loss"], made["loss"], rtol=1e-3)


@pytest.mark.parametrize(
    ("preset", "tokens", "hidden", "head"),
    [(None, (196, 768), 120, 768 * 768 + 768), ("swin", (36, 1024), 22, 1024 * 3072 + 3072)],
)
def test_sizes_of_the_recipe(
    preset: str | None, tokens: tuple[int, int], hidden: int, head: int
) -> None:
    """30 of 49 squares of 2 x 2 patches, 22 of 36 places of Swin's last stage."""
    checked = report(sslgraph.load("simmim", preset=preset))
    assert not [problem for problem in checked.problems if problem.severity == "error"]
    sizes = checked.sizes
    assert sizes is not None
    assert sizes.shapes["encoder", "tokens"][2:] == tokens
    assert sizes.parameters["head"] == head
    mask: Any = sslgraph.load("simmim", preset=preset).nodes["mask"].settings
    node: Any = make_node("random_mask", **mask)
    assert tokens[0] - node.mask_counts(node.config, tokens[0])["mask"].fewest == hidden


@pytest.mark.parametrize("preset", [None, "swin"])
def test_learning_rate_and_decay_of_the_recipe(preset: str | None) -> None:
    method, _ = graph_and_hand(preset)
    spec = method.graph.train
    epochs = 100 if preset else 800
    horizon = Horizon(total_steps=epochs * 100, steps_per_epoch=100)
    rates = {10: 4e-4, 699: 4e-4, 701: 4e-5}
    if preset:
        rates = {0: 4e-6, 10: 8e-4, 55: (8e-4 + 4e-5) / 2, 100: 4e-5}
    for epoch, expected in rates.items():
        rate = learning_rate(spec.lr, spec.batch_size, epoch * 100, horizon)
        assert rate == pytest.approx(expected, rel=1e-6)
    assert (spec.weight_decay, spec.clip.norm, spec.epochs) == (0.05, 5, epochs)
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, horizon)
    decayed = {n for group in groups if group.rule.weight_decay == 0.05 for n in group.names}
    assert "head.layer.weight" in decayed
    assert ("encoder.mask_token" in decayed) == (preset is None)
    assert any("relative_position_bias_table" in name for name in decayed)
    assert not any(name.endswith(("bias", "cls_token")) for name in decayed)


def _pairs(method: Any, hand: Simmim) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """Every trained parameter of the graph and the one by hand."""
    theirs = dict(hand.named_parameters())
    for node, prefix in (("encoder", "encoder."), ("head", "decoder.")):
        for name, parameter in method.nodes[node].named_parameters():
            own = name.removeprefix("model.").removeprefix("layer.")
            own = own if own == "mask_token" else prefix + own
            yield f"{node}.{name}", parameter, theirs.pop(own)
    assert not theirs
