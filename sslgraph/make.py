"""From steps of a plan to modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslgraph.checks.masks import UNLIKE, even_inputs
from sslgraph.nodes.base import Context, Node, SettingError
from sslgraph.nodes.recompute import recompute
from sslgraph.plan import Plan, Step
from sslgraph.ports import Member, Visible
from sslgraph.weights import load_weights


def make_modules(plan: Plan, seed: int, axes: Mapping[str, Mapping[str, int]]) -> dict[str, Node]:
    """The modules of a plan in its order, with their first weights.

    Args:
        plan: The plan.
        seed: Keys the first weights.
        axes: For each node the sizes of the axes that its inputs have.
    """
    made: dict[str, Node] = {}
    waiting = list(plan.steps)
    while waiting:  # each after those that it repeats
        step = next(s for s in waiting if all(m.node in made for m in s.members))
        waiting.remove(step)
        module = make_module(plan, step, seed, axes[step.name], made)
        path = weights_path(plan, step)
        if path:
            load_weights(module, path)
        made[step.name] = module
    return {step.name: made[step.name] for step in plan.steps}


def make_module(
    plan: Plan, step: Step, seed: int, axes: Mapping[str, int], made: Mapping[str, Node]
) -> Node:
    """Build the module of a step.

    Args:
        plan: The plan.
        step: The step.
        seed: Keys the first weights.
        axes: The sizes of the axes that its inputs have.
        made: The modules of the nodes that it repeats.
    """
    train = plan.graph.train
    samples = train.batch_size // train.accumulate
    kept = kept_by_masks(plan, step, axes)
    context = Context(step.name, seed, train.batch_norm, step.views, samples, kept)
    others: dict[str, Any] = {}
    if step.members:
        others["of"] = [original(made, member) for member in step.members]
    module: Node = step.declaration.module(
        axes=axes, context=context, config=step.config, declaration=step.declaration, **others
    )
    if not step.trained:
        _sees_all(step, module)
        module.requires_grad_(requires_grad=False)
    if getattr(step.spec.train, "recompute", False):
        recompute(module)
    return module


def kept_by_masks(plan: Plan, step: Step, axes: Mapping[str, int]) -> dict[str, Visible]:
    """How many places each mask into a step leaves visible, where that is known.

    Raises:
        SettingError: Masks that have to be even are not, or nothing tells.
    """
    found = plan.kept(step, axes)
    for port in even_inputs(step):
        masks = found.get(port)
        if port not in found or (masks is not None and masks.even and masks.most > 0):
            continue
        raise SettingError(
            f"{port} takes masks that leave as many places visible in every image",
            path=("in",),
            expected="one number of visible places in the images of a batch",
            got="unknown" if masks is None else f"{masks.fewest} to {masks.most}",
            help=f"wire {UNLIKE}",
        )
    return {port: masks for port, masks in found.items() if masks is not None}


def _sees_all(step: Step, module: Node) -> None:
    """Refuse masks that would be ignored: what is not trained is in evaluation.

    Raises:
        SettingError: A mask is plugged.
    """
    declared = step.declaration.inputs
    masks = [port for port in step.inputs if declared[port].kind.allowed == ("mask",)]
    if masks and hasattr(module, "evaluate"):
        raise SettingError(
            "what is not trained is in evaluation, where masks hide nothing",
            path=("train",),
            expected=f"no mask in '{masks[0]}'",
            help="delete 'train: false', or unplug the mask",
        )


def original(made: Mapping[str, Node], member: Member) -> Node:
    """The module that a member repeats."""
    module = made[member.node]
    if "." not in member.path:
        return module
    inner: Node = module.members[member.name]  # type: ignore[index,assignment]
    return inner


def weights_path(plan: Plan, step: Step) -> Path | None:
    """The file of a node's first weights; a relative path begins at the graph's folder."""
    if step.spec.weights is None:
        return None
    source = Path(plan.graph.document.span("nodes", step.name, "weights").file)
    beside = source.parent / step.spec.weights
    return beside if source.is_file() and beside.is_file() else Path(step.spec.weights)
