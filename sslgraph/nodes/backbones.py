"""Classes of timm's models that an encoder takes apart: to hide places, to look between blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from timm.layers.drop import DropPath
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sslgraph.errors import did_you_mean
from sslgraph.nodes.base import SettingError
from sslgraph.nodes.transformers import with_positions

Need = Literal["parts", "lists", "drops", "fixes"]
"""What a class of models has: parts at all, or what `Backbone` says."""

_KINDS: dict[Need, tuple[str, str]] = {
    "parts": (
        "timm's classes VisionTransformer, Beit and SwinTransformer",
        "swin_tiny_patch4_window7_224",
    ),
    "lists": ("vision transformers of one list of blocks", "beit_base_patch16_224"),
    "drops": ("plain vision transformers", "vit_small_patch16_224"),
    "fixes": ("plain vision transformers", "vit_small_patch16_224"),
}

Taps = dict[int, Tensor]
"""Number of a block, the first is 1 -> what came out of it, B P+N D."""


class Backbone:
    """How models of one class run in parts: patches, positions, blocks.

    Attributes:
        drops: Whether blocks may see some places only.
        lists: Whether the model is one list of blocks of equal width, in `model.blocks`.
        fixes: Whether the model adds positions that a table may stand in for.
    """

    drops = False
    lists = False
    fixes = False

    @classmethod
    def placed(cls, model: Any, x: Tensor, *, sincos: bool) -> Tensor:
        """What the first block sees, for patch embeddings B N D or B rows columns D."""
        raise NotImplementedError

    @classmethod
    def run(cls, model: Any, x: Tensor, taps: Iterable[int]) -> tuple[Tensor, Taps]:
        """What the last block gives, before the final norm, and what some blocks give."""
        raise NotImplementedError


class _Vit(Backbone):
    """A vision transformer with one position embedding a place."""

    drops = lists = fixes = True

    @classmethod
    def placed(cls, model: Any, x: Tensor, *, sincos: bool) -> Tensor:
        y: Tensor = model.norm_pre(model.patch_drop(with_positions(model, x, sincos=sincos)))
        return y

    @classmethod
    def run(cls, model: Any, x: Tensor, taps: Iterable[int]) -> tuple[Tensor, Taps]:
        made = {}
        for number, block in enumerate(model.blocks, 1):
            x = block(x)
            if number in taps:
                made[number] = x
        return x, made


class _Beit(Backbone):
    """BEiT's transformer, whose positions may be biases of attention."""

    lists = True

    @classmethod
    def placed(cls, model: Any, x: Tensor, *, sincos: bool) -> Tensor:
        x = torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], 1)
        y: Tensor = model.pos_drop(x if model.pos_embed is None else x + model.pos_embed)
        return y

    @classmethod
    def run(cls, model: Any, x: Tensor, taps: Iterable[int]) -> tuple[Tensor, Taps]:
        bias = None if model.rel_pos_bias is None else model.rel_pos_bias()
        made = {}
        for number, block in enumerate(model.blocks, 1):
            x = block(x, shared_rel_pos_bias=bias)
            if number in taps:
                made[number] = x
        return x, made


class _Swin(Backbone):
    """Windows of attention in stages, which need whole grids."""

    @classmethod
    def placed(cls, model: Any, x: Tensor, *, sincos: bool) -> Tensor:
        return x

    @classmethod
    def run(cls, model: Any, x: Tensor, taps: Iterable[int]) -> tuple[Tensor, Taps]:
        y: Tensor = model.layers(x)
        return y, {}


def backbone_of(model: nn.Module) -> type[Backbone] | None:
    """How a model runs in parts; None for a class that computes in another way."""
    cls: Any = type(model)
    if isinstance(model, VisionTransformer):
        as_timm = cls.forward_features is VisionTransformer.forward_features
        plain = as_timm and cls._pos_embed is VisionTransformer._pos_embed
        return _Vit if plain and model.pos_embed is not None else None
    return {Beit: _Beit, SwinTransformer: _Swin}.get(cls)


def suited(model: nn.Module, arch: str, wishes: Mapping[str, Need]) -> type[Backbone] | None:
    """How a model runs in parts, where that is known.

    Args:
        model: A timm model.
        arch: Its name.
        wishes: Settings -> what they need of its class.

    Raises:
        SettingError: Its class does not have what a setting needs.
    """
    backbone = backbone_of(model)
    for wish, need in wishes.items():
        if backbone is not None and (need == "parts" or getattr(backbone, need)):
            continue
        kind, example = _KINDS[need]
        setting = wish.partition(":")[0]
        raise SettingError(
            f"'{wish}' is for {kind}, and {arch} is none",
            path=(setting,),
            expected=f"such a model, as {example}",
            help=f"take another 'arch', or delete '{setting}'",
        )
    return backbone


def blocks_exist(model: nn.Module, arch: str, numbers: Sequence[int]) -> None:
    """See that a model has these blocks.

    Raises:
        SettingError: It has fewer.
    """
    for place, number in enumerate(numbers):
        depth = len(list(model.get_submodule("blocks").children()))
        if number > depth:
            raise SettingError(
                f"{arch} has no block {number}",
                path=("taps", place),
                expected=f"numbers from 1, the first block, to {depth}",
                got=str(number),
            )


def keep_paths(model: nn.Module, arguments: dict[str, Any]) -> None:
    """Take stochastic depth out of a model that timm makes with it, such as Swin's.

    Args:
        model: A timm model.
        arguments: Those that it was made with; they go on describing it.
    """
    for module in model.modules():
        if isinstance(module, DropPath) and module.drop_prob:
            module.drop_prob = 0.0
            arguments["drop_path_rate"] = 0.0


def flatten_paths(model: nn.Module, rate: float) -> None:
    """Give all blocks of a model one rate of stochastic depth (DINOv2)."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name.startswith("drop_path") and isinstance(child, (DropPath, nn.Identity)):
                setattr(module, name, DropPath(rate))


def leave_out_norm(model: Any, arguments: dict[str, Any]) -> None:
    """Take the norm behind the last block out of a model.

    Args:
        model: A model of one of these classes.
        arguments: Those that it was made with; where timm has one for this, it is put there, so
            that they go on describing the model.
    """
    model.norm = nn.Identity()
    if hasattr(model, "fc_norm"):
        model.fc_norm = nn.Identity()
    if isinstance(model, VisionTransformer):
        arguments["final_norm"] = False


def freeze(model: nn.Module, name: str, place: int) -> None:
    """Let a part of a model keep its first weights.

    Args:
        model: A timm model.
        name: The name of a module or parameter in it.
        place: Where the name stands in the setting `freeze`.

    Raises:
        SettingError: There is no such part, or it has no weights.
    """
    parts = [p for n, p in model.named_parameters() if n == name or n.startswith(f"{name}.")]
    if not parts:
        known = [n for n, part in model.named_children() if any(True for _ in part.parameters())]
        known += [n for n, _ in model.named_parameters(recurse=False)]
        raise SettingError(
            f"{type(model).__name__} has no part '{name}' with weights",
            path=("freeze", place),
            expected=f"names such as {', '.join(known)}",
            help=did_you_mean(name, known),
        )
    for part in parts:
        part.requires_grad = False
