"""What parameters are, and that each has exactly one rule."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from sslgraph.schedules import Schedule, Time
from sslgraph.train.groups import drop_frozen, kinds_of, parameter_groups, set_rates
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train_spec import LearningRate, NodeTrain, Scale, TrainSpec

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


def test_kinds_of_a_relative_position_table() -> None:
    model = timm.create_model("beit_base_patch16_224", num_classes=0, depth=1)
    kinds = by_name(model)
    assert kinds["blocks.0.attn.relative_position_bias_table"] == {"position"}
    assert kinds["blocks.0.attn.q_bias"] == {"bias", "1d"}
    assert kinds["blocks.0.gamma_1"] == {"1d"}


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
