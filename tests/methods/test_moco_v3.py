"""MoCo v3 as a graph against MoCo v3 written by hand, and the numbers of its recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import sslgraph
from sslgraph.checking import report
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.joint import BATCH, RUN, in_float64, pictures, require_equal_steps, updater_of
from tests.methods.moco_v3_by_hand import MocoV3, head, make_views, row_first_positions, small_vit

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


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(BATCH, 28)


@pytest.fixture
def method() -> Method:
    return in_float64("moco_v3", VIT, SEED)


@pytest.fixture
def by_hand(method: Method) -> MocoV3:
    nodes: Any = method.nodes
    encoder: Any = small_vit()
    encoder.load_state_dict(nodes["encoder"].model.state_dict())
    for fixed in (encoder.pos_embed, *encoder.patch_embed.parameters()):
        fixed.requires_grad = False
    projector = head([32, 24, 24, 16], norm=True)
    projector.load_state_dict(nodes["projector"].layers.state_dict())
    predictor = head([16, 24, 16], norm=True)
    predictor.load_state_dict(nodes["predictor"].layers.state_dict())
    hand = MocoV3(encoder, projector, predictor).double().train()
    hand.begin(0.2, RUN.total_steps, 2, PEAK)
    return hand


def test_views_are_those_of_the_documented_formula(method: Method, images: Tensor) -> None:
    index = {"index": torch.arange(BATCH)}
    made = method.run({"batch.image": images}, ["views"], index)["views"]
    expected = make_views(images.float() / 255, SEED, "views", 24).double()
    assert torch.allclose(made, expected, rtol=0, atol=1e-6)


def test_four_steps_are_equal(method: Method, by_hand: MocoV3, images: Tensor) -> None:
    """With AdamW and decay on everything; patches stay as they were in both networks."""
    nodes: Any = method.nodes
    projection = nodes["encoder"].model.patch_embed.proj
    before = [p.detach().clone() for p in projection.parameters()]
    members = nodes["key"].members
    pairs = [
        (nodes["encoder"].model, by_hand.encoder),
        (nodes["projector"].layers, by_hand.projector),
        (nodes["predictor"].layers, by_hand.predictor),
        (members["encoder"].model, by_hand.slow[0]),
        (members["projector"].layers, by_hand.slow[1]),
    ]
    require_equal_steps(method, by_hand, pairs, images, SEED, steps=4)
    for network in (nodes["encoder"], members["encoder"]):
        for kept, now in zip(before, network.model.patch_embed.proj.parameters(), strict=True):
            assert torch.equal(kept, now)
            assert now.grad is None
    assert not any(p.requires_grad for p in members["encoder"].parameters())


@pytest.mark.parametrize(
    "wrong", [{"nodes.loss.pairs": "same"}, {"minimize.loss": 0.2}, {"nodes.encoder.freeze": []}]
)
def test_another_method_is_seen(wrong: Any, by_hand: MocoV3, images: Tensor) -> None:
    """The comparison can fail: the key of the same view, another factor, trained patches."""
    method = in_float64("moco_v3", {**VIT, **wrong}, SEED)
    nodes: Any = method.nodes
    with pytest.raises(AssertionError):
        require_equal_steps(
            method, by_hand, [(nodes["encoder"].model, by_hand.encoder)], images, SEED, steps=2
        )


@pytest.mark.parametrize(("preset", "equal"), [(None, 6.654213), ("resnet50", 33.271065)])
def test_the_total_where_nothing_is_told_apart(preset: str | None, equal: float) -> None:
    """4 temperature ln N, given for 4096 images; and with each query at its own key."""
    graph = sslgraph.load("moco_v3", preset=preset)
    node: Any = make_node("info_nce", **graph.nodes["loss"].settings)
    weight: Any = graph.minimize["loss"]
    chance = node.chance({"V": 2, "V'": 2, "B": 4096, "D": 256})
    assert weight * chance == pytest.approx(equal, abs=1e-5)
    temperature = graph.nodes["loss"].settings["temperature"]
    basis = torch.eye(64, dtype=torch.float64).expand(2, -1, -1)
    expected = 4 * temperature * math.log1p(63 * math.exp(-1 / temperature))
    assert weight * node(basis, basis).item() == pytest.approx(expected, rel=1e-5)


def test_the_golden_loss() -> None:
    """Two directions of three images: 0.674451."""
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    b = torch.tensor([[4.0, 3.0], [0.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    method = in_float64("moco_v3", VIT, SEED)
    both = torch.stack([a, b])
    total = method.run({"predictor": both, "key": both}, ["loss"])["loss"].item() * 0.4
    assert total == pytest.approx(0.674451, abs=1e-6)


def test_sizes_of_the_published_networks() -> None:
    sizes = report(sslgraph.load("moco_v3")).sizes
    assert sizes is not None
    assert sizes.parameters["projector"] == 19_415_040
    assert sizes.parameters["predictor"] == 2_105_344
    resnet = report(sslgraph.load("moco_v3", preset="resnet50")).sizes
    assert resnet is not None
    assert resnet.parameters["encoder"] == 23_508_032
    assert resnet.parameters["projector"] == 9_445_376
    assert resnet.parameters["predictor"] == 2_105_344


def test_first_weights_of_the_transformer() -> None:
    """Uniform within the published bounds: 0.072169 for patches, 1/8 and so on for the rest."""
    size = 384
    graph = {"arch": "vit_small_patch16_224", "position": "sincos", "init": "xavier_qkv"}
    args = {"depth": 1, "num_heads": 12}
    node: Any = make_node("encoder", axes={"C": 3, "H": 224, "W": 224}, args=args, **graph)
    model = node.model
    layers = {
        model.patch_embed.proj: math.sqrt(6 / (3 * 256 + size)),
        model.blocks[0].attn.qkv: math.sqrt(6 / (2 * size)),
        model.blocks[0].attn.proj: math.sqrt(6 / (2 * size)),
        model.blocks[0].mlp.fc1: math.sqrt(6 / (5 * size)),
    }
    assert layers[model.patch_embed.proj] == pytest.approx(0.072169, abs=1e-6)
    for layer, bound in layers.items():
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=1e-2)
        assert not layer.bias.any()
    assert 0 < model.cls_token.abs().max() < 6e-6
    assert model.blocks[0].attn.num_heads == 12
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}


def test_positions_are_the_released_ones_with_both_halves_exchanged() -> None:
    """The released code calls its rows columns; whole dimensions change places, no more."""
    nodes: Any = in_float64("moco_v3", VIT, SEED).nodes
    ours = nodes["encoder"].model.pos_embed[0]
    theirs = row_first_positions(3, 3, 32)
    exchanged = torch.cat([theirs[:, 16:], theirs[:, :16]], 1)
    assert torch.allclose(ours.double(), exchanged, atol=1e-6)


def test_learning_rates_and_momentum_of_the_recipe() -> None:
    graph = sslgraph.load("moco_v3")
    run = Horizon(300 * 312, 312)
    assert learning_rate(graph.train.lr, 4096, 40 * 312, run) == pytest.approx(2.4e-3)
    assert learning_rate(graph.train.lr, 4096, 20 * 312, run) == pytest.approx(1.2e-3)
    assert (graph.train.optimizer, graph.train.weight_decay) == ("adamw", 0.1)
    assert (graph.train.no_decay, graph.train.betas) == ([], (0.9, 0.999))
    assert graph.nodes["key"].settings["momentum"] == {"cosine": [0.99, 1.0]}
    resnet = sslgraph.load("moco_v3", preset="resnet50", set={"vars.arch": "test_resnet"})
    assert learning_rate(resnet.train.lr, 4096, 10 * 312, run) == pytest.approx(9.6)
    updater = updater_of(sslgraph.compile(resnet), 0)
    kinds = {(p.ndim > 1, g.rule.adapt) for g in updater.groups for p in g.parameters}
    assert kinds == {(True, True), (False, False)}
    assert timm.is_model(graph.nodes["encoder"].settings["arch"])
