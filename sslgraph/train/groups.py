"""Which parameters train, and by which rule: groups for the optimizer.

A parameter belongs to one group: those with the same node settings and the same place in or out of
weight decay. Before each step the groups get their learning rate and weight decay.

Which kinds of parameter `no_decay` names is what papers differ in: biases and normalisation
(SimCLR, BYOL), all with one axis (MoCo v3, Barlow Twins, VICReg, DINO), normalisation alone
(supervised contrastive learning), nothing (MoCo, SwAV). LARS gives the same parameters no trust
ratio either, in every one of these; LARC adapts all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from sslgraph.nodes.depths import blocks_behind
from sslgraph.schedules import Number
from sslgraph.train.rates import Horizon, learning_rate, number_at
from sslgraph.train_spec import Group, LearningRate, NodeRate, NodeTrain, Scale, TrainSpec

Parameters = Mapping[str, Mapping[str, nn.Parameter]]
"""Node name -> parameter name within the node -> parameter."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_POSITIONS = {
    "absolute_pos_embed",
    "pos_emb",
    "pos_embed",
    "pos_embedding",
    "position_embedding",
    "position_embeddings",
    "positional_embedding",
    "rel_pos_h",
    "rel_pos_w",
    "relative_position_bias_table",
}
_LAYER_SCALES = ("gamma", "layer_scale")
_CLS = {"class_token", "cls_token", "dist_token", "reg_token", "register_tokens"}


@dataclass(frozen=True)
class Rule:
    """What parameters of one group have in common.

    Args:
        lr: The node's factor of the run's learning rate, or one of its own.
        factor: What that is multiplied by for these parameters of the node.
        weight_decay: Decay, as a number or schedule.
        adapt: Whether decay and, with LARS, trust apply at all.
        freeze: Optimizer steps at first in which the parameters stay as they are.
        how: What holds them: no gradient, so that the optimizer skips them (no moments, no decay),
            or a learning rate of 0, under which moments gather.
    """

    lr: NodeRate
    weight_decay: Number
    adapt: bool
    factor: float = 1.0
    freeze: float = 0.0
    how: Literal["no_grad", "zero_lr"] = "no_grad"

    def rate(self, run: float, spec: TrainSpec, step: int, horizon: Horizon) -> float:
        """The learning rate at an optimizer step, where the run's is `run`."""
        if step < self.freeze:
            return 0.0
        if isinstance(self.lr, Scale):
            return run * self.lr.scale * self.factor
        return learning_rate(self.lr, spec.batch_size, step, horizon) * self.factor


@dataclass
class ParameterGroup:
    """Parameters that train by one rule.

    Args:
        rule: The rule.
        names: Node and parameter of each, such as ``encoder.conv1.weight``.
        parameters: The tensors, in the same order.
    """

    rule: Rule
    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)


def kinds_of(module: nn.Module) -> dict[int, set[Group]]:
    """What each parameter of a module is, by the `id` of the parameter.

    `norm` are the parameters of normalisation layers, `1d` those with one axis, `learned` those
    with none, `patch_embed` all within a module of that name; the rest go by the names that timm
    and torch use. A parameter may be several of these or nothing.
    """
    kinds: dict[int, set[Group]] = {}
    for path, owner in module.named_modules():
        embeds = "patch_embed" in path.split(".")
        for name, parameter in owner.named_parameters(recurse=False):
            found = kinds.setdefault(id(parameter), {"patch_embed"} if embeds else set())
            found |= _kinds(owner, name, parameter)
    return kinds


def _kinds(owner: nn.Module, name: str, parameter: nn.Parameter) -> set[Group]:
    facts: dict[Group, bool] = {
        "bias": name == "bias" or name.endswith("_bias"),
        "norm": _is_norm(owner, parameter),
        "1d": parameter.ndim == 1,
        "position": name in _POSITIONS,
        "cls": name in _CLS,
        "mask_token": name == "mask_token",
        "layer_scale": name.startswith(_LAYER_SCALES),
        "learned": parameter.ndim == 0,
    }
    return {kind for kind, holds in facts.items() if holds}


def _is_norm(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a layer normalises: by its type, else by its name, as timm has its own kinds."""
    if isinstance(owner, _NORMS):
        return True
    return "norm" in type(owner).__name__.lower() and parameter.ndim == 1


def parameter_groups(
    module: nn.Module,
    parameters: Parameters,
    spec: TrainSpec,
    of_node: Mapping[str, NodeTrain | None],
    horizon: Horizon,
) -> list[ParameterGroup]:
    """Sort parameters into groups, each into exactly one.

    Args:
        module: The module that owns the parameters; its layers tell what they are.
        parameters: Trained parameters by node.
        spec: The run's settings.
        of_node: Each node's own settings.
        horizon: Length of the run, for times given in epochs.
    """
    kinds, behind = kinds_of(module), blocks_behind(module)
    groups: dict[Rule, ParameterGroup] = {}
    seen: set[int] = set()
    for node, named in parameters.items():
        own = of_node.get(node) or NodeTrain()
        for name, parameter in named.items():
            if not own.enabled or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            found = kinds[id(parameter)]
            rate = own.lr if isinstance(own.lr, LearningRate) else spec.lr
            factor = rate.scale.of(found) * rate.layer_decay ** behind.get(id(parameter), 0)
            rule = _rule(spec, own, bool(found & set(spec.no_decay)), factor, horizon)
            group = groups.setdefault(rule, ParameterGroup(rule))
            group.parameters.append(parameter)
            group.names.append(f"{node}.{name}")
    return list(groups.values())


def _rule(spec: TrainSpec, own: NodeTrain, excluded: bool, factor: float, horizon: Horizon) -> Rule:
    decay = spec.weight_decay if own.weight_decay is None else own.weight_decay
    freeze = own.freeze.steps(horizon.total_steps, horizon.steps_per_epoch) if own.freeze else 0.0
    lr = own.lr or Scale(scale=1.0)
    return Rule(lr, 0.0 if excluded else decay, not excluded, factor, freeze, own.how)


def set_rates(
    optimizer: Optimizer,
    groups: Sequence[ParameterGroup],
    spec: TrainSpec,
    step: int,
    horizon: Horizon,
) -> float:
    """Give each group of the optimizer its learning rate and weight decay of a step.

    Returns:
        The run's learning rate, before any node's scale or rate.
    """
    rate = learning_rate(spec.lr, spec.batch_size, step, horizon)
    for group, known in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] = known.rule.rate(rate, spec, step, horizon)
        group["weight_decay"] = number_at(known.rule.weight_decay, step, horizon)
    return rate


def drop_frozen(groups: Sequence[ParameterGroup], step: int) -> None:
    """Take the gradients from parameters that wait without; optimizers skip such tensors."""
    for group in groups:
        if step < group.rule.freeze and group.rule.how == "no_grad":
            for parameter in group.parameters:
                parameter.grad = None
