"""Blocks in which rows to predict look at others that stay as they are."""

from __future__ import annotations

import torch
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm
from torch import Tensor, nn
from torch.nn import functional

_FIRST_SCALE = 0.1  # of both residual branches, as in the released code


class CrossBlock(nn.Module):
    """Cross-attention, a norm that replaces the stream, and an MLP (CAE, section 3.2).

    Rows to predict are queries; keys and values are the context and these rows, with positions in
    keys alone. Both branches are scaled by learned factors, 0.1 at first. Keys have no bias.

    Args:
        width: Width of all rows, a multiple of `heads`.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_key = LayerNorm(width), LayerNorm(width)
        self.norm_value, self.norm = LayerNorm(width), LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width)
        self.gamma_1 = nn.Parameter(torch.full((width,), _FIRST_SCALE))
        self.gamma_2 = nn.Parameter(torch.full((width,), _FIRST_SCALE))

    def forward(self, x: Tensor, context: Tensor, asked: Tensor, seen: Tensor) -> Tensor:
        """The rows to predict, one block on.

        Args:
            x: Rows to predict, B M width.
            context: Rows that stay, B N width.
            asked: Positions of x, B M width.
            seen: Positions of the context, B N width.
        """
        rows, positions = torch.cat([context, x], 1), torch.cat([seen, asked], 1)
        query = self._heads(self.query(self.norm_query(x + asked)))
        key = self._heads(self.key(self.norm_key(rows + positions)))
        value = self._heads(self.value(self.norm_value(rows)))
        found = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.gamma_1 * self.proj(found.transpose(1, 2).flatten(2))
        x = self.norm(x)
        y: Tensor = x + self.gamma_2 * self.mlp(x)
        return y

    def _heads(self, x: Tensor) -> Tensor:
        """B n width -> B heads n width/heads."""
        apart: Tensor = x.unflatten(2, (self.heads, -1))
        return apart.transpose(1, 2)
