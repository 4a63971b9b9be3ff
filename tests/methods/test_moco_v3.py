"""MoCo v3 as a graph against MoCo v3 written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import sslgraph
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.train.rates import Horizon
from tests.methods import joint
from tests.methods.joint import BATCH, RUN
from tests.methods.moco_v3_by_hand import MocoV3, head, make_views, row_first_positions, small_vit
from tests.nodes.view_losses import A, B, double

SEED = 10
PEAK = 1.5e-2 * BATCH / 256
VIT: dict[str, Any] = {
    "vars.size": 24,
    "vars.hidden": 24,
    "vars.dim": 16,
    "nodes.encoder.args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 8},
    "train.batch_size": BATCH,
    "train.lr": {"base": 1.5e-2, "per": 256, "warmup": "2 steps"},
}


@pytest.fixture
def method() -> Method:
    return joint.in_float64("moco_v3", VIT, SEED)


@pytest.fixture
def by_hand(method: Method) -> MocoV3:
    encoder: Any = small_vit()
    for fixed in (encoder.pos_embed, *encoder.patch_embed.parameters()):
        fixed.requires_grad = False
    projector, predictor = head([32, 24, 24, 16], norm=True), head([16, 24, 16], norm=True)
    parts = {"encoder": encoder, "projector": projector, "predictor": predictor}
    joint.share_weights(method, parts)
    hand = MocoV3(encoder, projector, predictor).double().train()
    hand.begin(0.2, RUN.total_steps, 2, PEAK)
    return hand


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    joint.require_views(method, images, make_views(images.float() / 255, SEED, "views", 24))


def test_four_steps_are_equal(method: Method, by_hand: MocoV3, images: Tensor) -> None:
    """With AdamW and decay on everything; patches stay as they were in both networks."""
    patches = [joint.network(method, name).patch_embed.proj for name in ("encoder", "key.encoder")]
    before = [p.detach().clone() for p in patches[0].parameters()]
    parts = {
        "encoder": by_hand.encoder,
        "projector": by_hand.projector,
        "predictor": by_hand.predictor,
        "key.encoder": by_hand.slow[0],
        "key.projector": by_hand.slow[1],
    }
    joint.require_equal_steps(method, by_hand, joint.beside(method, parts), images, SEED, steps=4)
    for projection in patches:
        for kept, now in zip(before, projection.parameters(), strict=True):
            assert torch.equal(kept, now)
            assert now.grad is None
    assert not any(p.requires_grad for p in joint.network(method, "key.encoder").parameters())


@pytest.mark.parametrize(
    "wrong", [{"nodes.loss.pairs": "same"}, {"minimize.loss": 0.2}, {"nodes.encoder.freeze": []}]
)
def test_another_method_is_seen(wrong: Any, by_hand: MocoV3, images: Tensor) -> None:
    """The comparison can fail: the key of the same view, another factor, trained patches."""
    method = joint.in_float64("moco_v3", {**VIT, **wrong}, SEED)
    pairs = joint.beside(method, {"encoder": by_hand.encoder})
    with pytest.raises(AssertionError):
        joint.require_equal_steps(method, by_hand, pairs, images, SEED, steps=2)


@pytest.mark.parametrize(("preset", "equal"), [(None, 6.654213), ("resnet50", 33.271065)])
def test_the_total_where_nothing_is_told_apart(preset: str | None, equal: float) -> None:
    """4 temperature ln N, given for 4096 images; and with each query at its own key."""
    graph = sslgraph.load("moco_v3", preset=preset)
    node: Any = make_node("info_nce", **graph.nodes["loss"].settings)
    weight: Any = graph.minimize["loss"]
    chance = node.chance({"V": 2, "V'": 2, "B": 4096, "D": 256})
    assert weight * chance == pytest.approx(equal, abs=1e-5)
    temperature = graph.nodes["loss"].settings["temperature"]
    assert weight == 2 * temperature
    basis = torch.eye(64, dtype=torch.float64).expand(2, -1, -1)
    expected = 4 * temperature * math.log1p(63 * math.exp(-1 / temperature))
    assert weight * node(basis, basis).item() == pytest.approx(expected, rel=1e-5)


def test_the_golden_loss() -> None:
    """Two directions of three images: 0.674451."""
    method = joint.in_float64("moco_v3", VIT, SEED)
    both = double([A, B])
    total = method.run({"predictor": both, "key": both}, ["loss"])["loss"].item() * 0.4
    assert total == pytest.approx(0.674451, abs=1e-6)


def test_sizes_of_the_published_networks() -> None:
    """Heads of `moco/builder.py`: three layers after a transformer, two after a ResNet."""
    transformer = joint.sizes_of("moco_v3").parameters
    assert transformer["projector"] == 19_415_040
    assert transformer["predictor"] == 2_105_344
    larger = joint.sizes_of("moco_v3", set={"vars.arch": "vit_base_patch16_224"}).parameters
    assert larger["projector"] == 20_987_904
    resnet = joint.sizes_of("moco_v3", preset="resnet50").parameters
    assert resnet["encoder"] == 23_508_032
    assert resnet["projector"] == 9_445_376
    assert resnet["predictor"] == 2_105_344
    assert resnet["key"] == 23_508_032 + 9_445_376  # the predictor has no slow copy


@pytest.mark.parametrize("preset", [None, "resnet50"])
def test_only_after_a_transformer_does_a_norm_end_the_predictor(preset: str | None) -> None:
    """It has no parameters, so sizes do not tell: `_build_projector_and_predictor_mlps`."""
    graph = sslgraph.load("moco_v3", preset=preset)
    x = 3 * torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(0)) + 1
    for name, normalised in (("projector", True), ("predictor", preset is None)):
        settings = {**graph.nodes[name].settings, "hidden": [8], "out": 5}
        y = make_node(name, axes={"D": 4}, **settings)(x)[0]
        assert torch.allclose(y.mean(0), torch.zeros(5), atol=1e-3) == normalised, name
        assert torch.allclose(y.var(0, correction=0), torch.ones(5), atol=1e-2) == normalised, name


@pytest.mark.parametrize(
    ("arch", "size", "patch", "square"),
    [
        ("vit_small_patch16_224", 384, 0.072169, 0.088388),
        ("vit_base_patch16_224", 768, 0.0625, 0.0625),
    ],
)
def test_first_weights_of_the_transformer(
    arch: str, size: int, patch: float, square: float
) -> None:
    """Uniform within the bounds of `vits.py`, which takes q, k and v as matrices of their own."""
    graph = {"arch": arch, "position": "sincos", "init": "xavier_qkv"}
    args = {"depth": 1, "num_heads": 12}
    node: Any = make_node("encoder", axes={"C": 3, "H": 224, "W": 224}, args=args, **graph)
    model = node.model
    layers = {
        model.patch_embed.proj: math.sqrt(6 / (3 * 256 + size)),
        model.blocks[0].attn.qkv: math.sqrt(6 / (2 * size)),
        model.blocks[0].attn.proj: math.sqrt(6 / (2 * size)),
        model.blocks[0].mlp.fc1: math.sqrt(6 / (5 * size)),
    }
    assert layers[model.patch_embed.proj] == pytest.approx(patch, abs=1e-6)
    assert layers[model.blocks[0].attn.qkv] == pytest.approx(square, abs=1e-6)
    for layer, bound in layers.items():
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=1e-2)
        assert not layer.bias.any()
    assert 0 < model.cls_token.abs().max() < 6e-6
    assert model.blocks[0].attn.num_heads == 12
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}


def test_positions_are_the_released_ones_with_both_halves_exchanged() -> None:
    """The released code calls its rows columns; whole dimensions change places, no more."""
    ours = joint.network(joint.in_float64("moco_v3", VIT, SEED), "encoder").pos_embed[0]
    theirs = row_first_positions(3, 3, 32)
    exchanged = torch.cat([theirs[:, 16:], theirs[:, :16]], 1)
    assert torch.allclose(ours.double(), exchanged, atol=1e-6)


def test_learning_rates_and_momentum_of_the_recipe() -> None:
    """Of `CONFIG.md`: 300 epochs of a transformer with AdamW, 100 of a ResNet with LARS."""
    graph = sslgraph.load("moco_v3")
    joint.require_rates(graph, Horizon(300 * 312, 312), {0: 0, 20 * 312: 1.2e-3, 40 * 312: 2.4e-3})
    spec = graph.train
    assert (spec.optimizer, spec.weight_decay, spec.epochs) == ("adamw", 0.1, 300)
    assert (spec.no_decay, spec.betas, spec.batch_size) == ([], (0.9, 0.999), 4096)
    assert graph.nodes["key"].settings["momentum"] == {"cosine": [0.99, 1.0]}
    assert timm.is_model(graph.nodes["encoder"].settings["arch"])


def test_the_recipe_of_the_resnet() -> None:
    resnet = sslgraph.load("moco_v3", preset="resnet50", set={"vars.arch": "test_resnet"})
    joint.require_rates(resnet, Horizon(100 * 312, 312), {5 * 312: 4.8, 10 * 312: 9.6})
    spec = resnet.train
    assert (spec.optimizer, spec.form, spec.weight_decay) == ("lars", "post", 1e-6)
    assert (spec.epochs, spec.batch_size) == (100, 4096)
    joint.require_bare_vectors(joint.updater_of(sslgraph.compile(resnet), 0))
    assert resnet.nodes["key"].settings["momentum"] == {"cosine": [0.99, 1.0]}
    crop = resnet.nodes["views"].settings["ops"][0]
    assert crop == {"crop": [0.2, 1]}
