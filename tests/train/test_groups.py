"""What parameters are, and that each has exactly one rule."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from sslgraph.schedules import Schedule, Time
from sslgraph.train.groups import drop_frozen, kinds_of, parameter_groups, set_rates
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train_spec import Factors, LearningRate, NodeTrain, Scale, TrainSpec

RUN = Horizon(total_steps=100, steps_per_epoch=10)


class BatchNorm(nn.Module):
    """A normalisation layer that torch doesn't know."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.linear = nn.Linear(4, 4)
        self.norm = BatchNorm()

    def forward(self, x: Tensor) -> Tensor:
        return x


def by_name(module: nn.Module) -> dict[str, set[str]]:
    kinds = kinds_of(module)
    return {name: set(kinds[id(p)]) for name, p in module.named_parameters()}


def test_kinds_of_a_vision_transformer() -> None:
    kinds = by_name(timm.create_model("test_vit", num_classes=0))
    assert kinds["pos_embed"] == {"position"}
    assert kinds["cls_token"] == {"cls"}
    assert kinds["blocks.0.norm1.weight"] == {"norm", "1d"}
    assert kinds["blocks.0.norm1.bias"] == {"norm", "1d", "bias"}
    assert kinds["blocks.0.attn.qkv.weight"] == set()
    assert kinds["blocks.0.attn.qkv.bias"] == {"bias", "1d"}
    assert kinds["patch_embed.proj.weight"] == {"patch_embed"}
    assert kinds["patch_embed.proj.bias"] == {"patch_embed", "bias", "1d"}
    kinds = by_name(Encoder("test_vit", init_values=1e-5))
    assert kinds["mask_token"] == {"mask_token"}
    assert kinds["model.blocks.0.ls1.gamma"] == {"layer_scale", "1d"}


def test_kinds_of_a_relative_position_table() -> None:
    model = timm.create_model("beit_base_patch16_224", num_classes=0, depth=1)
    kinds = by_name(model)
    assert kinds["blocks.0.attn.relative_position_bias_table"] == {"position"}
    assert kinds["blocks.0.attn.q_bias"] == {"bias", "1d"}
    assert kinds["blocks.0.gamma_1"] == {"layer_scale", "1d"}


def test_kinds_of_a_convolutional_network_and_own_layers() -> None:
    kinds = by_name(timm.create_model("resnet18", num_classes=0))
    assert kinds["conv1.weight"] == set()
    assert kinds["bn1.weight"] == {"norm", "1d"}
    kinds = by_name(Scaled())
    assert kinds["temperature"] == {"learned"}
    assert kinds["norm.weight"] == {"norm", "1d"}


def nodes() -> tuple[nn.ModuleDict, dict[str, dict[str, nn.Parameter]]]:
    module = nn.ModuleDict({"encoder": Scaled(), "head": nn.Linear(4, 4)})
    named = {name: dict(node.named_parameters()) for name, node in module.items()}
    return module, named


def test_each_parameter_has_one_group_and_shared_ones_the_first() -> None:
    module, named = nodes()
    named["again"] = dict(named["head"])
    groups = parameter_groups(module, named, TrainSpec(no_decay=["norm", "bias"]), {}, RUN)
    flat = [p for group in groups for p in group.parameters]
    assert len(flat) == len({id(p) for p in flat}) == len(list(module.parameters()))
    decayed = {n for g in groups if g.rule.adapt for n in g.names}
    assert decayed == {"encoder.temperature", "encoder.linear.weight", "head.weight"}


def test_node_settings_lie_over_the_run() -> None:
    module, named = nodes()
    spec = TrainSpec(
        lr=LearningRate(peak=1.0),
        weight_decay=Schedule(linear=(0.0, 1.0)),
        no_decay=["bias"],
    )
    own = {"head": NodeTrain(lr=Scale(scale=0.5), weight_decay=0.25)}
    groups = parameter_groups(module, named, spec, own, RUN)
    optimizer = build_optimizer(spec, groups)
    assert set_rates(optimizer, groups, spec, 50, RUN) == 0.5
    rates = {
        name: (group["lr"], group["weight_decay"])
        for group, known in zip(optimizer.param_groups, groups, strict=True)
        for name in known.names
    }
    assert rates["encoder.linear.weight"] == (0.5, 0.5)
    assert rates["head.weight"] == (0.25, 0.25)
    assert rates["head.bias"] == (0.25, 0.0)


class Encoder(nn.Module):
    """A model with a mask token beside it, and a head behind it, in one node."""

    def __init__(self, arch: str, **arguments: Any) -> None:
        super().__init__()
        self.model = timm.create_model(arch, num_classes=0, **arguments)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 64))
        self.head = nn.Linear(4, 4)


def factors_of(node: nn.Module, lr: LearningRate, own: NodeTrain | None = None) -> dict[str, float]:
    module = nn.ModuleDict({"node": node})
    named = {"node": dict(node.named_parameters())}
    spec = TrainSpec(lr=lr)
    groups = parameter_groups(module, named, spec, {"node": own}, RUN)
    optimizer = build_optimizer(spec, groups)
    set_rates(optimizer, groups, spec, 0, RUN)
    return {
        name.removeprefix("node."): group["lr"]
        for group, known in zip(optimizer.param_groups, groups, strict=True)
        for name in known.names
    }


def test_layer_decay_of_dinov2() -> None:
    # ViT-L with 24 blocks, decay 0.9, patch embedding x 0.2: the rates of the released code,
    # worked out by its rule 0.9 ^ (25 - id)
    lr = LearningRate(peak=1.0, layer_decay=0.9, scale=Factors(patch_embed=0.2))
    arch = {"depth": 24, "embed_dim": 24, "num_heads": 1, "reg_tokens": 2, "init_values": 1e-5}
    found = factors_of(Encoder("vit_tiny_patch16_224", **arch), lr)
    expected = {
        "mask_token": 0.0717898,
        "model.cls_token": 0.0717898,
        "model.reg_token": 0.0717898,
        "model.pos_embed": 0.0717898,
        "model.patch_embed.proj.weight": 0.01435796,
        "model.patch_embed.proj.bias": 0.01435796,
        "model.blocks.0.attn.qkv.weight": 0.0797664,
        "model.blocks.0.ls1.gamma": 0.0797664,
        "model.blocks.23.mlp.fc2.bias": 0.9,
        "model.norm.weight": 1.0,
        "head.weight": 1.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_layer_decay_counts_blocks_of_all_stages() -> None:
    # Swin: 2 + 2 + 6 + 2 blocks; a merging of patches goes with the block behind it
    lr = LearningRate(peak=1.0, layer_decay=0.5)
    found = factors_of(Encoder("swin_tiny_patch4_window7_224"), lr)
    assert found["model.patch_embed.proj.weight"] == 0.5**13
    assert found["model.layers.0.blocks.0.attn.qkv.weight"] == 0.5**12
    assert found["model.layers.1.downsample.norm.weight"] == 0.5**10
    assert found["model.layers.1.blocks.0.attn.qkv.weight"] == 0.5**10
    assert found["model.layers.3.blocks.1.attn.qkv.weight"] == 0.5
    assert found["model.norm.weight"] == 1
    # A residual network: 2 blocks in each of 4 stages, and no norm behind them
    found = factors_of(Encoder("resnet18"), lr)
    assert found["model.conv1.weight"] == 0.5**9
    assert found["model.layer1.0.conv1.weight"] == 0.5**8
    assert found["model.layer4.1.bn2.bias"] == 0.5


def test_factors_of_kinds_multiply_with_the_node() -> None:
    # Barlow Twins: weights at 0.2, biases and batch norm at 0.0048
    lr = LearningRate(peak=0.2, scale=Factors.model_validate({"1d": 0.024}))
    assert factors_of(Scaled(), lr) == pytest.approx(
        {
            "temperature": 0.2,
            "linear.weight": 0.2,
            "linear.bias": 0.0048,
            "norm.weight": 0.0048,
            "norm.bias": 0.0048,
        }
    )
    half = factors_of(Scaled(), lr, NodeTrain(lr=Scale(scale=0.5)))
    assert (half["linear.weight"], half["linear.bias"]) == pytest.approx((0.1, 0.0024))
    whole = factors_of(Scaled(), lr, NodeTrain(lr=LearningRate(peak=0.3)))
    assert set(whole.values()) == {0.3}
    own = LearningRate(peak=0.3, scale=Factors(norm=2.0))
    whole = factors_of(Scaled(), lr, NodeTrain(lr=own))
    assert (whole["linear.bias"], whole["norm.bias"]) == pytest.approx((0.3, 0.6))


def test_a_node_that_does_not_train_is_left_out() -> None:
    module, named = nodes()
    groups = parameter_groups(module, named, TrainSpec(), {"head": NodeTrain(enabled=False)}, RUN)
    assert not [n for g in groups for n in g.names if n.startswith("head")]


def test_frozen_parameters_stay_until_their_time() -> None:
    module, named = nodes()
    own = {"head": NodeTrain(freeze=Time(1, "epochs"))}
    spec = TrainSpec(lr=LearningRate(peak=0.1), weight_decay=0.5)
    groups = parameter_groups(module, named, spec, own, RUN)
    optimizer = build_optimizer(spec, groups)
    before = named["head"]["weight"].detach().clone()
    for step, moved in ((9, False), (10, True)):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        set_rates(optimizer, groups, spec, step, RUN)
        drop_frozen(groups, step)
        optimizer.step()
        assert torch.equal(before, named["head"]["weight"]) is not moved
