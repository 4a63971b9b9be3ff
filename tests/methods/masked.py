"""What the tests of masked and predictive methods have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import sslgraph
from sslgraph.nodes.base import Context
from sslgraph.registry import find
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate
from sslgraph.train_spec import TrainSpec
from tests.methods.distilled import cosine
from tests.methods.joint import RUN, updater_of

Pairs = Mapping[str, tuple[nn.Parameter, nn.Parameter]]
"""Name in the graph -> parameter of the graph and the one by hand."""

EPOCH = 100
"""Optimizer steps of an epoch where a recipe is looked at, which is in epochs."""


RENAMED = {"encoder": ("model.", "encoder."), "head": ("layer.", "head.")}
"""Names of a linear head behind an encoder, and what they are by hand: see `paired`."""

TABLE = "encoder.model.rel_pos_bias.relative_position_bias_table"
"""BEiT's relative positions in the graph."""


def share_with_head(method: Any, hand: Any) -> None:
    """Give encoder, mask token and linear head by hand the weights of the graph's nodes."""
    node = method.nodes["encoder"]
    hand.encoder.load_state_dict(node.model.state_dict())
    hand.mask_token.data.copy_(node.mask_token)
    hand.head.load_state_dict(method.nodes["head"].layer.state_dict())


def batch(images: Tensor, step: int = 0) -> dict[str, Tensor]:
    """The batch of a step: images, and their positions in the run."""
    return {"image": images, "index": torch.arange(len(images)) + step * len(images)}


def paired(method: Any, hand: nn.Module, renamed: Mapping[str, tuple[str, str]]) -> Pairs:
    """Every trained parameter of the graph with the one by hand; there are no others.

    Args:
        method: The method.
        hand: The same by hand.
        renamed: For each node what its parameters' names begin with, and with what those by hand.
    """
    theirs = {name: p for name, p in hand.named_parameters() if p.requires_grad}
    found = {}
    for node, (ours, other) in renamed.items():
        for name, parameter in method.nodes[node].named_parameters():
            if parameter.requires_grad:
                key = other + name.removeprefix(ours) if name.startswith(ours) else name
                found[f"{node}.{name}"] = parameter, theirs.pop(key)
    assert not theirs
    return found


def adamw(
    named: Iterable[tuple[str, nn.Parameter]], *, without: tuple[str, ...] = (), **how: Any
) -> Optimizer:
    """AdamW that decays by 0.05 what has two axes or more, but for names with these ends."""
    groups: dict[float, list[nn.Parameter]] = {0.05: [], 0.0: []}
    for name, parameter in named:
        kept_out = parameter.ndim <= 1 or name.endswith(without)
        groups[0.0 if kept_out else 0.05].append(parameter)
    return torch.optim.AdamW(
        [{"params": found, "weight_decay": decay} for decay, found in groups.items()], **how
    )


def step_both(
    pairs: Pairs,
    descents: Sequence[Optimizer],
    losses: tuple[Tensor, Tensor],
    shaped: Callable[[str, Tensor], Tensor] = lambda name, gradient: gradient,
) -> None:
    """One step of each optimizer, before which losses and gradients have to be equal.

    Args:
        pairs: The parameters.
        descents: The graph's optimizer and the one by hand.
        losses: Of the graph and by hand.
        shaped: Gives a gradient by hand the order of the graph's numbers.
    """
    assert torch.allclose(*losses, rtol=1e-8)
    for descent, loss in zip(descents, losses, strict=True):
        descent.zero_grad()
        torch.autograd.backward(loss)
    for name, (ours, theirs) in pairs.items():
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        # 1e-9 of gradients up to 0.1: SimMIM's code by hand divides by its sum plus 1e-5
        assert torch.allclose(ours.grad, shaped(name, theirs.grad), rtol=1e-7, atol=1e-9), name
    for descent in descents:
        descent.step()


def require_equal_run(
    method: Any,
    by_hand: Callable[[dict[str, Tensor]], Tensor],
    pairs: Pairs,
    images: Tensor,
    *,
    seed: int,
    descent: Optimizer,
    clip: float,
    rates: tuple[float, float],
) -> list[float]:
    """Three steps of a run with its own optimizer, and the same by hand, all in float64.

    Losses and gradients have to be equal before each step, parameters after it.

    Args:
        method: The method, in float64.
        by_hand: The loss of a batch.
        pairs: Every trained parameter.
        images: Those of each batch; they are cut anew in each.
        seed: The method's.
        descent: The optimizer by hand.
        clip: The longest gradient.
        rates: The learning rate of the first step and the one at the end, a half cosine apart.

    Returns:
        The lengths of the gradients.
    """
    updater = updater_of(method, seed)
    trained = sum(p.numel() for group in updater.groups for p in group.parameters)
    assert trained == sum(ours.numel() for ours, _ in pairs.values())
    lengths = []
    for step in range(3):
        data = batch(images, step)
        descent.zero_grad()
        loss = by_hand(data)
        torch.autograd.backward(loss)
        done = updater.begin([data], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-7, atol=0)
        for name, (ours, theirs) in pairs.items():
            assert ours.grad is not None, name
            assert theirs.grad is not None, name
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9), name
        lengths.append(float(nn.utils.clip_grad_norm_([p for _, p in pairs.values()], clip)))
        for group in descent.param_groups:
            group["lr"] = cosine(*rates, step / RUN.total_steps)
        descent.step()
        assert updater.finish(done) == ""
        for name, (ours, theirs) in pairs.items():
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9), name
    return lengths


def with_other_pixels(views: Tensor, mask: Tensor, patch: int) -> Tensor:
    """Views in whose hidden patches there is something else: V B C H W, of masks V B N."""
    rows = views.shape[3] // patch
    hidden = mask.view(*mask.shape[:2], 1, rows, -1)
    hidden = hidden.repeat_interleave(patch, 3).repeat_interleave(patch, 4)
    return torch.where(hidden, views.flip(3, 4), views)


def require_block_masks(name: str, most: int, mean: float) -> None:
    """See how many of 14 x 14 places the block masks of a shipped method hide.

    Args:
        name: The method.
        most: The number at which no more blocks are drawn.
        mean: Of thousands of masks of the published generator, which stops early at times.
    """
    settings: Any = sslgraph.load(name).nodes["mask"].settings
    axes, context = {"H": 224, "W": 224}, Context("mask", 1)
    node: Any = find("block_mask").module(axes=axes, context=context, **settings)
    image = torch.zeros(1, 1, 1, 1, 1).expand(1, 2000, 1, 224, 224)
    counts = node(image, torch.arange(2000)[None]).mask.sum(-1).double()
    assert counts.max() == most
    assert counts.mean().item() == pytest.approx(mean, abs=0.15)


def require_recipe(
    spec: TrainSpec,
    *,
    rates: Mapping[int, float],
    epochs: int,
    batch_size: int = 2048,
    betas: tuple[float, float] = (0.9, 0.999),
    clip: float | None = None,
) -> None:
    """See that a run is one of AdamW with these settings.

    Args:
        spec: The run's settings.
        rates: Epochs done -> learning rate.
        epochs: Length of the run.
        batch_size: Images of a step.
        betas: The optimizer's.
        clip: The longest gradient; any if absent.
    """
    assert (spec.optimizer, spec.betas, spec.eps) == ("adamw", betas, 1e-8)
    assert (spec.epochs, spec.batch_size) == (epochs, batch_size)
    assert (spec.clip.norm if spec.clip else None) == clip
    horizon = Horizon(total_steps=epochs * EPOCH, steps_per_epoch=EPOCH)
    for epoch, expected in rates.items():
        rate = learning_rate(spec.lr, spec.batch_size, epoch * EPOCH, horizon)
        assert rate == pytest.approx(expected, rel=1e-6, abs=1e-12), epoch


def require_decay(method: Any, spec: TrainSpec, *among: str, without: tuple[str, ...] = ()) -> None:
    """See that what has two axes or more decays by 0.05, and nothing else.

    Args:
        method: The method, of any size.
        spec: The settings of its run.
        among: Parameters that have to be among those that train.
        without: Ends of names that do not decay whatever they have.
    """
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, RUN)
    trained = {name for group in groups for name in group.names}
    assert trained >= set(among)
    for group in groups:
        for name, parameter in zip(group.names, group.parameters, strict=True):
            decays = parameter.ndim > 1 and not name.endswith(without)
            assert group.rule.weight_decay == (0.05 if decays else 0.0), name


def require_whole_images(method: Any, images: Tensor) -> None:
    """See that outputs in evaluation are those of timm's model for views with nothing hidden."""
    made = method.outputs({"image": images})
    with method.evaluating():
        view = method.run({}, ["view"], batch(images))["view"][0]
        whole = method.nodes["encoder"].model.forward_features(view)
    torch.testing.assert_close(made["tokens"][0], whole[:, 1:])
    torch.testing.assert_close(made["embedding"][0], whole[:, 0])


def block_weights(width: int) -> int:
    """Parameters of a transformer's block: 4 + 8 matrices, their biases, two norms."""
    return 12 * width * width + (3 + 1 + 4 + 1) * width + 2 * 2 * width


BEIT_BASE = (
    12 * (block_weights(768) - 768 + 2 * 768)  # keys have no bias; two scales
    + (16 * 16 * 3 + 1) * 768  # patches
    + 2 * 768  # class and mask token
    + 2 * 768  # last norm
    + ((2 * 14 - 1) ** 2 + 3) * 12  # 732 relative positions of 12 heads, for all blocks
)
"""Parameters of BEiT's encoder, which SimMIM and data2vec have too: there is no other position."""


def require_blocks_of_beit(
    name: str,
    small: Mapping[str, Any],
    *,
    drop_path: float,
    scale: float,
    attention_drop: float = 0.0,
) -> None:
    """See that blocks are dropped ever more often, up to a rate, and start with these scales.

    Args:
        name: A shipped method.
        small: Settings that make it small; those of what is looked at do not count.
        drop_path: Rate of the twelfth block; the first one is never dropped.
        scale: First value of the scales of each block's two parts.
        attention_drop: Rate of dropout on attention.
    """
    ours = ("drop_path", "attention_drop", "args.depth", "args.init_values")
    kept = {key: value for key, value in small.items() if not key.endswith(ours)}
    method: Any = sslgraph.compile(sslgraph.load(name, set=kept))
    blocks = method.nodes["encoder"].model.blocks
    assert len(blocks) == 12
    for number, block in enumerate(blocks):
        for path in (block.drop_path1, block.drop_path2):
            rate = getattr(path, "drop_prob", 0.0)
            assert rate == pytest.approx(drop_path * number / 11, abs=1e-7)
        assert block.attn.attn_drop.p == attention_drop
        for gamma in (block.gamma_1, block.gamma_2):
            assert torch.equal(gamma, torch.full_like(gamma, scale))


def require_first_weights_of_beit(method: Any) -> None:
    """See that they are of N(0, 0.02) cut off at one deviation, so that none is above 0.02.

    The last layers of attention and MLP in block l, from 1, are divided by the root of 2 l; biases
    and the table of relative positions are zero (`modeling_pretrain.py` of the released code).
    """
    encoder, model = method.nodes["encoder"], method.nodes["encoder"].model
    whole = [model.patch_embed.proj.weight, encoder.mask_token, model.cls_token]
    for number, block in enumerate(model.blocks, 1):
        whole += [block.attn.qkv.weight, block.mlp.fc1.weight]
        for last in (block.attn.proj, block.mlp.fc2):
            bound = 0.02 / math.sqrt(2 * number)
            assert 0.95 * bound < last.weight.abs().max() <= bound
            assert not last.bias.any()
        assert not block.attn.q_bias.any()
        assert not block.attn.v_bias.any()
    for weight in whole:
        assert 0.85 * 0.02 < weight.abs().max() <= 0.02
        assert weight.std().item() == pytest.approx(0.02 * 0.5396, rel=0.25)
    assert not model.rel_pos_bias.relative_position_bias_table.any()
