"""SimMIM as a graph against SimMIM written by hand, and the numbers of its recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.nodes.base import make_node
from tests.methods.joint import pictures
from tests.methods.masked import (
    BEIT_BASE,
    batch,
    block_weights,
    paired,
    require_blocks_of_beit,
    require_decay,
    require_first_weights_of_beit,
    require_recipe,
    step_both,
    with_other_pixels,
)
from tests.methods.masked_by_hand import make_views
from tests.methods.simclr_by_hand import ROUNDING
from tests.methods.simmim_by_hand import Simmim, loss_of, make_masks, rows_of_decoder

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
    return pictures(6, 74)


def views_of(images: Tensor, seed: int = SEED) -> Tensor:
    return make_views(images.float() / 255, seed, 64, 0.67, "bilinear")


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


@pytest.mark.parametrize(("preset", "times"), [(None, 2), ("swin", 1)])
def test_views_and_masks_are_those_of_the_documented_formula(
    preset: str | None, times: int, images: Tensor
) -> None:
    method, _ = graph_and_hand(preset)
    made = method.run({}, ["view", "mask", "target"], batch(images))
    assert torch.allclose(made["view"][0], views_of(images), rtol=0, atol=ROUNDING)
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

    def shaped(name: str, gradient: Tensor) -> Tensor:
        """The decoder's layer has its rows in another order."""
        if not name.startswith("head."):
            return gradient
        return gradient[rows].flatten(1) if gradient.dim() > 1 else gradient[rows]

    pairs = paired(
        method, hand, {"encoder": ("model.", "encoder."), "head": ("layer.", "decoder.")}
    )
    sides = [[pair[side] for pair in pairs.values()] for side in range(2)]
    descents = [torch.optim.SGD(side, lr=0.05, momentum=0.9) for side in sides]
    for step in range(3):
        views = views_of(images, SEED + step).double()
        ours = method.run({"view": views[None]}, ["loss"], batch(images))["loss"]
        step_both(pairs, descents, (ours, hand(views, make_masks(6, SEED, 2, 0.6))), shaped)
        method.after_step()


def test_a_loss_over_all_pixels_is_seen(images: Tensor) -> None:
    """The comparison can fail: without the mask the visible pixels are in the mean."""
    _, hand = graph_and_hand(None)
    other = {**VIT, "nodes.loss.in": {"prediction": "head", "target": "target"}}
    wrong = sslgraph.compile(sslgraph.load("simmim", set=other), seed=SEED)
    theirs = hand(views_of(images), make_masks(6, SEED, 2, 0.6))
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
    changed = with_other_pixels(made["view"], make_masks(6, SEED, 2, 0.6).bool()[None], 32)
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
    assert sizes.parameters["encoder"] == (swin_weights() if preset else BEIT_BASE)
    mask: Any = sslgraph.load("simmim", preset=preset).nodes["mask"].settings
    node: Any = make_node("random_mask", **mask)
    assert tokens[0] - node.mask_counts(node.config, tokens[0])["mask"].fewest == hidden


def swin_weights() -> int:
    """Swin-B: 2, 2, 18, 2 blocks of 128, 256, 512, 1024 with 4 to 32 heads, windows of 6 x 6.

    Each block has a table of 11 x 11 relative positions; four places become one of twice the width.
    """
    total = 128 * 4 * 4 * 3 + 128 + 2 * 128 + 128  # patches, their norm, the mask token
    for stage, depth in enumerate((2, 2, 18, 2)):
        width, heads = 128 * 2**stage, 4 * 2**stage
        total += depth * (block_weights(width) + 11 * 11 * heads)
        if stage < 3:
            total += 2 * 4 * width + 4 * width * 2 * width
    return total + 2 * 1024


@pytest.mark.parametrize("preset", [None, "swin"])
def test_learning_rate_and_decay_of_the_recipe(preset: str | None) -> None:
    """Numbers of `configs/` in the released code, times 2048 / 512: also the one it starts at."""
    method, _ = graph_and_hand(preset)
    spec = method.graph.train
    rates = {0: 2e-6, 5: 2.01e-4, 10: 4e-4, 699: 4e-4, 701: 4e-5}
    if preset:
        rates = {0: 4e-6, 10: 8e-4, 55: (8e-4 + 4e-5) / 2, 100: 4e-5}
    require_recipe(spec, rates=rates, epochs=100 if preset else 800, clip=5)
    without = ("cls_token", "mask_token") if preset else ("cls_token",)
    require_decay(method, spec, "encoder.mask_token", without=without)
    tables = [n for n, _ in method.named_parameters() if "relative_position_bias_table" in n]
    assert len(tables) == (5 if preset else 1)  # they decay, too


def test_blocks_of_the_recipe() -> None:
    """Up to a tenth of the images pass a block by; Swin's blocks are never dropped."""
    require_blocks_of_beit("simmim", VIT, drop_path=0.1, scale=0.1)
    require_first_weights_of_beit(sslgraph.compile(sslgraph.load("simmim", set=VIT)))
    method, _ = graph_and_hand("swin")
    paths = [m for name, m in method.named_modules() if name.endswith(("drop_path1", "drop_path2"))]
    assert [getattr(path, "drop_prob", 0.0) for path in paths] == [0.0] * 2 * (1 + 1 + 2 + 1)
