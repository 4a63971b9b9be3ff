"""Parts of timm's plain vision transformer: first weights, positions, and the choice of places."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sslgraph.nodes.positions import sincos_table

TOKEN_STD = 0.02
"""Standard deviation of the first values of learned tokens."""

_TOKENS = ("cls_token", "reg_token")


@torch.no_grad()
def start_xavier(model: nn.Module, *, apart: bool = False) -> None:
    """Draw first weights as MAE does: Xavier uniform, biases of linear layers zero.

    The projection of patches counts as a linear layer from all pixels of a patch; its bias stays as
    it is. Learned tokens come from N(0, 0.02); norms keep scale 1 and shift 0.

    Args:
        model: A timm model, or layers of our own.
        apart: As MoCo v3 does: query, key and value are a matrix each where one layer makes them,
            the bias of the projection is zero, and tokens come from N(0, 1e-6).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parts = 3 if apart and name.split(".")[-1] == "qkv" else 1
            for matrix in module.weight.chunk(parts):
                nn.init.xavier_uniform_(matrix)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    if isinstance(projection, nn.Conv2d):
        nn.init.xavier_uniform_(projection.weight.flatten(1))
        if apart and projection.bias is not None:
            nn.init.zeros_(projection.bias)
    for name in _TOKENS:
        token = getattr(model, name, None)
        if token is not None:
            nn.init.normal_(token, std=1e-6 if apart else TOKEN_STD)


@torch.no_grad()
def start_beit(model: Any) -> None:
    """Draw first weights as BEiT does: N(0, 0.02) cut off at 0.02 on either side, biases zero.

    Linear layers, the projection of patches, learned positions and tokens are drawn so; then the
    last layer of attention and of the MLP in block l, from 1, is divided by sqrt(2 l). Norms keep
    scale 1 and shift 0, tables of relative positions are zero.
    """
    projection = model.patch_embed.proj
    for module in [*model.modules()]:
        if isinstance(module, nn.Linear) or module is projection:
            draw_cut_normal(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name in (*_TOKENS, "pos_embed"):
        token = getattr(model, name, None)
        if token is not None and token.requires_grad:
            draw_cut_normal(token)
    for number, block in enumerate(model.blocks, 1):
        for last in (block.attn.proj, block.mlp.fc2):
            last.weight /= math.sqrt(2 * number)


@torch.no_grad()
def draw_cut_normal(weight: Tensor) -> None:
    """Fill with N(0, 0.02), cut off at one standard deviation on either side."""
    nn.init.trunc_normal_(weight, std=TOKEN_STD, a=-TOKEN_STD, b=TOKEN_STD)


@torch.no_grad()
def fix_positions(model: Any) -> None:
    """Put the table of sines and cosines in the place of learned positions; it is not trained.

    It stays under timm's name, so that an exported model has it. Class and register tokens have a
    row of zeros.
    """
    rows, columns = model.patch_embed.grid_size
    learned = model.pos_embed
    table = sincos_table(rows, columns, learned.shape[-1], device=learned.device)
    fixed = torch.zeros_like(learned)
    fixed[0, -rows * columns :] = table
    model.pos_embed = nn.Parameter(fixed, requires_grad=False)


def with_positions(model: Any, x: Tensor, *, sincos: bool) -> Tensor:
    """Patch embeddings with positions, behind class and register tokens.

    Args:
        model: A plain vision transformer.
        x: B N D, or B rows columns D of a model for any size.
        sincos: Whether the table is computed for another grid than the model's; else timm
            interpolates.

    Returns:
        B P+N D.
    """
    if not sincos or x.dim() == 3 or tuple(x.shape[1:3]) == tuple(model.patch_embed.grid_size):
        y: Tensor = model._pos_embed(x)
        return y
    batch, rows, columns, width = x.shape
    table = sincos_table(rows, columns, width, device=x.device).to(model.pos_embed.dtype)
    tokens = [getattr(model, name) for name in _TOKENS]
    front = [token.expand(batch, -1, -1) for token in tokens if token is not None]
    placed: Tensor = model.pos_drop(torch.cat([*front, x.flatten(1, 2) + table], 1))
    return placed


def taken(x: Tensor, places: Tensor, *, after: int = 0) -> Tensor:
    """The rows of some places of each image, behind the first `after` rows, which stay.

    Args:
        x: B P+N D.
        places: B n, int64.
        after: The number P.
    """
    chosen = x[:, after:].gather(1, places[:, :, None].expand(-1, -1, x.shape[-1]))
    return torch.cat([x[:, :after], chosen], 1) if after else chosen
