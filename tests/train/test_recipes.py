"""Parameter groups as published recipes want them: who decays, who is adapted, how long one waits.

Each reference is torch's own optimizer, or the rule of the paper in a plain loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from torch import nn

import sslgraph
from sslgraph.schedules import Schedule, Time
from sslgraph.train.groups import ParameterGroup, drop_frozen, parameter_groups, set_rates
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train_spec import LearningRate, NodeTrain, Scale, TrainSpec

RUN = Horizon(total_steps=1000, steps_per_epoch=10)


class Net(nn.Module):
    """One of each: weights, biases, batch norm, a trained scalar, a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.gamma = nn.Parameter(torch.full((4,), 0.1))
        self.temperature = nn.Parameter(torch.tensor(0.2))


def net() -> Net:
    torch.manual_seed(3)
    return Net()


def groups_of(
    module: nn.Module, spec: TrainSpec, own: Mapping[str, NodeTrain] | None = None
) -> list[ParameterGroup]:
    named = {"net": dict(module.named_parameters())}
    return parameter_groups(module, named, spec, own or {}, RUN)


def set_gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(
    module: nn.Module,
    spec: TrainSpec,
    steps: range,
    own: Mapping[str, NodeTrain] | None = None,
    horizon: Horizon = RUN,
) -> torch.optim.Optimizer:
    """Steps with gradients that depend on the step alone."""
    named = {"net": dict(module.named_parameters())}
    groups = parameter_groups(module, named, spec, own or {}, horizon)
    optimizer = build_optimizer(spec, groups)
    for step in steps:
        set_gradients(module, step)
        set_rates(optimizer, groups, spec, step, horizon)
        drop_frozen(groups, step)
        optimizer.step()
    return optimizer


def require_equal(one: nn.Module, other: nn.Module) -> None:
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize(
    ("no_decay", "left_out"),
    [
        # SimCLR and BYOL: by name, biases and batch norm
        (["bias", "norm"], {"linear.bias", "norm.weight", "norm.bias"}),
        # MoCo v3, Barlow Twins, VICReg: whatever has one axis
        (["1d"], {"linear.bias", "norm.weight", "norm.bias", "gamma"}),
        # supervised contrastive learning in TensorFlow: batch norm alone, biases are adapted
        (["norm"], {"norm.weight", "norm.bias"}),
        # CLIP: trained scalars too
        (["1d", "learned"], {"linear.bias", "norm.weight", "norm.bias", "gamma", "temperature"}),
        # MoCo v2: everything decays
        ([], set()),
    ],
)
def test_who_is_neither_decayed_nor_adapted(no_decay: list[str], left_out: set[str]) -> None:
    spec = TrainSpec.model_validate(
        {"optimizer": "lars", "weight_decay": 1e-6, "no_decay": no_decay}
    )
    groups = groups_of(net(), spec)
    without = {n for g in groups for n in g.names if g.rule.weight_decay == 0}
    assert without == {f"net.{name}" for name in left_out}
    optimizer = build_optimizer(spec, groups)
    set_rates(optimizer, groups, spec, 0, RUN)
    for group, known in zip(optimizer.param_groups, groups, strict=True):
        assert group["adapt"] is not (set(known.names) <= without)
        assert group["weight_decay"] == (0.0 if set(known.names) <= without else 1e-6)


def test_dino_decays_tokens_and_positions_and_no_bias_ever() -> None:
    # Released code: no decay for names that end in .bias and for tensors with one axis.
    model = timm.create_model("test_vit", num_classes=0)
    spec = TrainSpec(
        lr=LearningRate(peak=5e-4, warmup=Time(10, "epochs"), end=1e-6),
        weight_decay=Schedule(cosine=(0.04, 0.4)),
        no_decay=["bias", "1d"],
    )
    groups = groups_of(model, spec)
    optimizer = build_optimizer(spec, groups)
    named = dict(model.named_parameters())
    assert {"cls_token", "pos_embed"} <= set(named)
    # cosine(.04 -> .4) over 1000 steps; the released code has the same values at every step
    for step, decay in ((0, 0.04), (250, 0.0927208), (500, 0.22), (999, 0.3999991)):
        set_rates(optimizer, groups, spec, step, RUN)
        for group, known in zip(optimizer.param_groups, groups, strict=True):
            for name in (full.removeprefix("net.") for full in known.names):
                bare = name.endswith(".bias") or named[name].ndim == 1
                assert group["weight_decay"] == (0.0 if bare else pytest.approx(decay, abs=1e-7))


def test_the_lengths_of_prototypes_decay_where_they_train() -> None:
    # DINO without norm_last_layer: g has two axes (K x 1), so it decays like the directions.
    spec = TrainSpec(weight_decay=0.04, no_decay=["bias", "1d"])
    learned = groups_of(sslgraph.node("prototypes", axes={"D": 4}, count=3, scale="learned"), spec)
    assert [(group.names, group.rule.weight_decay) for group in learned] == [
        (["net.v", "net.g"], 0.04)
    ]


def test_dino_steps_are_those_of_torch() -> None:
    ours, theirs = net(), net()
    spec = TrainSpec(
        lr=LearningRate(peak=0.01, warmup=Time(2, "steps"), end=1e-6),
        weight_decay=Schedule(cosine=(0.04, 0.4)),
        no_decay=["bias", "1d"],
    )
    run(ours, spec, range(6), horizon=Horizon(6, 6))
    flat = [p for p in theirs.parameters() if p.ndim == 1]
    rest = [p for p in theirs.parameters() if p.ndim != 1]
    parts: list[dict[str, Any]] = [{"params": rest}, {"params": flat, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(parts)
    for step in range(6):
        set_gradients(theirs, step)
        rate = 0.01 * step / 2
        if step >= 2:
            rate = 1e-6 + (0.01 - 1e-6) * (1 + math.cos(math.pi * (step - 2) / 4)) / 2
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.param_groups[0]["weight_decay"] = 0.4 - 0.36 * (1 + math.cos(math.pi * step / 6)) / 2
        adamw.step()
    require_equal(ours, theirs)


def test_moco_v2_decays_all_and_changes_its_rate_each_epoch() -> None:
    # 0.03 x (1 + cos(pi x epoch / 200)) / 2, no warm-up, SGD with decay on every parameter
    ours, theirs = net(), net()
    horizon = Horizon(total_steps=200 * 3, steps_per_epoch=3)
    spec = TrainSpec(
        optimizer="sgd", lr=LearningRate(base=0.03, by="epoch"), weight_decay=1e-4, batch_size=256
    )
    run(ours, spec, range(300, 312), horizon=horizon)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    for step in range(300, 312):
        set_gradients(theirs, step)
        sgd.param_groups[0]["lr"] = 0.03 * (1 + math.cos(math.pi * (step // 3) / 200)) / 2
        sgd.step()
    require_equal(ours, theirs)


def test_byol_steps() -> None:
    # LARS with the rate outside the momentum; biases and batch norm plain, without decay
    ours, theirs = net(), net()
    spec = TrainSpec(
        optimizer="lars",
        form="post",
        lr=LearningRate(base=0.2, per=256, warmup=Time(2, "steps")),
        weight_decay=1.5e-6,
        no_decay=["bias", "norm"],
        batch_size=4096,
    )
    run(ours, spec, range(5), horizon=Horizon(5, 5))
    buffers = {name: torch.zeros_like(p) for name, p in theirs.named_parameters()}
    for step in range(5):
        set_gradients(theirs, step)
        rate = 3.2 * step / 2 if step < 2 else 3.2 * (1 + math.cos(math.pi * (step - 2) / 3)) / 2
        with torch.no_grad():
            for name, w in theirs.named_parameters():
                assert w.grad is not None
                move = w.grad
                if not (name.endswith("bias") or name.startswith("norm")):
                    move = move + 1.5e-6 * w
                    move = move * 1e-3 * w.norm() / move.norm()
                buffers[name] = 0.9 * buffers[name] + move
                w.sub_(rate * buffers[name])
    require_equal(ours, theirs)


def test_a_trained_scalar_has_its_own_word() -> None:
    # It has no axis, so `1d` does not name it: with LARS it is adapted unless `learned` is.
    plain = groups_of(net(), TrainSpec(weight_decay=0.1, no_decay=["1d"]))
    named = groups_of(net(), TrainSpec(weight_decay=0.1, no_decay=["1d", "learned"]))
    decays = [
        next(g.rule.weight_decay for g in groups if "net.temperature" in g.names)
        for groups in (plain, named)
    ]
    assert decays == [0.1, 0.0]


def frozen(how: str) -> dict[str, NodeTrain]:
    return {"net": NodeTrain.model_validate({"freeze": "3 steps", "how": how})}


def test_no_gradient_leaves_no_moments() -> None:
    # DINO: while its last layer is frozen, AdamW skips it; afterwards it begins like at step 0.
    ours, theirs = net(), net()
    spec = TrainSpec(lr=LearningRate(peak=0.01, shape="constant"), weight_decay=0.1)
    optimizer = run(ours, spec, range(3), frozen("no_grad"))
    assert not optimizer.state
    require_equal(ours, net())
    ours = net()
    run(ours, spec, range(5), frozen("no_grad"))
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    for step in (3, 4):
        set_gradients(theirs, step)
        adamw.step()
    require_equal(ours, theirs)


def test_a_rate_of_zero_gathers_moments() -> None:
    # DINOv2: the last layer stays as it is, but AdamW has seen its gradients when it is let go.
    ours, theirs = net(), net()
    spec = TrainSpec(lr=LearningRate(peak=0.01, shape="constant"), weight_decay=0.1)
    optimizer = run(ours, spec, range(3), frozen("zero_lr"))
    require_equal(ours, net())
    assert all(state["step"] == 3 for state in optimizer.state.values())
    ours = net()
    run(ours, spec, range(5), frozen("zero_lr"))
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.0, weight_decay=0.1)
    for step in range(5):
        set_gradients(theirs, step)
        adamw.param_groups[0]["lr"] = 0.0 if step < 3 else 0.01
        adamw.step()
    require_equal(ours, theirs)
    skipped = net()
    run(skipped, spec, range(5), frozen("no_grad"))
    assert not torch.allclose(skipped.linear.weight, ours.linear.weight, atol=1e-5)


def test_a_node_may_have_a_whole_learning_rate() -> None:
    # SimSiam: the encoder follows the cosine, the predictor keeps 0.05 x batch / 256.
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2), "predictor": nn.Linear(2, 2)})
    named = {name: dict(node.named_parameters()) for name, node in module.items()}
    spec = TrainSpec(lr=LearningRate(base=0.05), batch_size=512)
    own = {"predictor": NodeTrain.model_validate({"lr": {"base": 0.05, "shape": "constant"}})}
    groups = parameter_groups(module, named, spec, own, RUN)
    optimizer = build_optimizer(spec, groups)
    for step, rate in ((0, 0.1), (500, 0.05), (1000, 0.0)):
        assert set_rates(optimizer, groups, spec, step, RUN) == pytest.approx(rate)
        rates = {
            name: group["lr"]
            for group, known in zip(optimizer.param_groups, groups, strict=True)
            for name in known.names
        }
        assert rates["encoder.weight"] == pytest.approx(rate)
        assert rates["predictor.weight"] == rates["predictor.bias"] == pytest.approx(0.1)


def test_a_frozen_node_with_a_rate_of_its_own() -> None:
    own = NodeTrain(lr=LearningRate(peak=0.3), freeze=Time(1, "epochs"), how="zero_lr")
    module = net()
    spec = TrainSpec(lr=LearningRate(peak=0.1, shape="constant"))
    groups = groups_of(module, spec, {"net": own})
    optimizer = build_optimizer(spec, groups)
    for step, rate in ((9, 0.0), (10, 0.3 * (1 + math.cos(math.pi / 100)) / 2)):
        assert set_rates(optimizer, groups, spec, step, RUN) == 0.1
        assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(rate)]


def test_scaled_rates_follow_the_run() -> None:
    own = {"net": NodeTrain(lr=Scale(scale=0.2))}
    spec = TrainSpec(lr=LearningRate(peak=1.0))
    groups = groups_of(net(), spec, own)
    optimizer = build_optimizer(spec, groups)
    assert set_rates(optimizer, groups, spec, 500, RUN) == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
