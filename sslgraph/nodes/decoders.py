"""Decoders: from what is visible to every place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
from pydantic import BeforeValidator, PositiveInt, WithJsonSchema, model_validator
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.places import first_visible, visible_places
from sslgraph.nodes.positions import sincos_table
from sslgraph.nodes.transformers import TOKEN_STD, start_xavier
from sslgraph.ports import In, Out
from sslgraph.schedules import fault

_WIDTH_HELP = (
    "write a number, or 'out: {patch: 16}' for the pixels of a patch of 16 x 16 in 3 channels"
)


def _width(value: object) -> object:
    """A width, or the pixels of a patch as `{patch: 16, channels: 3}`."""
    if isinstance(value, str):
        raise fault("not a width", expected="a whole number or a patch", help=_WIDTH_HELP)
    if not isinstance(value, Mapping):
        return value
    sides = {"channels": 3, **value}
    if sides.keys() != {"patch", "channels"} or not all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides.values()
    ):
        raise fault(
            "not the size of a patch",
            expected="'patch' and, where it is not 3, 'channels'",
            help=_WIDTH_HELP,
        )
    return sides["patch"] ** 2 * sides["channels"]


_SIZE = {"type": "integer", "exclusiveMinimum": 0}
Width = Annotated[
    PositiveInt,
    BeforeValidator(_width),
    WithJsonSchema(
        {
            "anyOf": [
                _SIZE,
                {
                    "type": "object",
                    "properties": {"patch": _SIZE, "channels": {**_SIZE, "default": 3}},
                    "required": ["patch"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class OnGrid(Node):
    """Base of transformers over the places of a grid, where a learned token stands for hidden ones.

    Positions are a fixed table of sines and cosines.
    """

    class Config(Node.Config):
        """Settings.

        Attributes:
            width: Width of the blocks.
            depth: Number of blocks.
            heads: Attention heads of each block.
            grid: Rows and columns of the places; a square if absent.
        """

        width: PositiveInt
        depth: PositiveInt
        heads: PositiveInt
        grid: tuple[PositiveInt, PositiveInt] | None = None

        @model_validator(mode="after")
        def _divisible(self) -> Self:
            if self.width % self.heads or self.width % 4:
                raise fault(
                    f"a width of {self.width} can't be shared out to {self.heads} heads and to "
                    "sines and cosines of two coordinates",
                    expected="a multiple of 'heads' and of 4",
                )
            return self

    positions: Tensor

    def make_blocks(self, places: int, kind: type[nn.Module] = Block, **settings: Any) -> None:
        """Make the learned token, the table of positions, the blocks and the norm behind them.

        Args:
            places: Places of the grid.
            kind: What a block is, made of width and heads.
            **settings: Further arguments of it.
        """
        config = self.config
        rows, columns = self._grid(places)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.width).normal_(std=TOKEN_STD))
        table = sincos_table(rows, columns, config.width)
        self.register_buffer("positions", table, persistent=False)
        self.blocks = nn.Sequential(
            *(kind(config.width, config.heads, **settings) for _ in range(config.depth))
        )
        self.norm = LayerNorm(config.width)

    def _grid(self, places: int) -> tuple[int, int]:
        side = math.isqrt(places)
        rows, columns = self.config.grid or (side, side)
        if rows * columns == places:
            return rows, columns
        raise SettingError(
            f"a grid of {rows} x {columns} has not {places} places",
            path=("grid",),
            expected="rows and columns of the grid, as many places as the mask has",
            got=f"a mask of {places} places",
            help="add 'grid: [rows, columns]'",
        )

    def fits(self, axes: Mapping[str, int]) -> None:
        """See that masks have the places that the table is made for."""
        if axes["G"] != len(self.positions):
            raise SettingError(
                f"{self.declaration.use} is built for {len(self.positions)} places",
                path=("in",),
                expected=f"masks of {len(self.positions)} places",
                got=f"masks of {axes['G']}",
                help=f"use a second {self.declaration.use} for the other size",
            )


class TokenDecoder(OnGrid, use="token_decoder"):
    """A small transformer that fills in hidden places (MAE, section 3, 'MAE decoder').

    Tokens of the visible places are projected to `width` and put where they belong; one learned
    token stands everywhere else. Positions are a fixed table of sines and cosines. After the blocks
    and a norm every place is projected to `out` numbers. Tokens in front of those of the places
    (`encoder.sequence` has class and register tokens there) go along, without a position and
    without an output; outside a graph all tokens are of places. First weights are those of MAE.

    Shapes: x B N D, tokens of the visible places in raster order, more of them only in front; mask
    B G of all places -> y B G out.
    """

    x = In("tokens", "B N D")
    mask = In("mask", "B G")
    y = Out("tokens", "B G out")
    sample = {"width": 8, "depth": 1, "heads": 2, "out": 5}
    sample_axes = {"N": 2, "G": 4}

    class Config(OnGrid.Config):
        """Settings.

        Attributes:
            width: Width of the blocks.
            depth: Number of blocks.
            heads: Attention heads of each block.
            out: Numbers for each place; `{patch: 16}` are the pixels of a patch of 16 x 16 in 3
                channels, `{patch: 16, channels: 1}` in one.
            grid: Rows and columns of the places; a square if absent.
        """

        width: PositiveInt = 512
        depth: PositiveInt = 8
        heads: PositiveInt = 16
        out: Width

    @classmethod
    def even(cls, config: Any) -> Mapping[str, str]:
        """Tokens of the visible places are there only where every image has as many."""
        return {"mask": ""}

    def build(self, N: int, D: int, G: int) -> None:
        """Make the layers for N tokens of width D on a grid of G places."""
        self.embed = nn.Linear(D, self.config.width)
        self.make_blocks(G, qkv_bias=True, norm_layer=LayerNorm)
        self.head = nn.Linear(self.config.width, self.config.out)
        start_xavier(self)

    def fits(self, axes: Mapping[str, int]) -> None:
        """See that tokens, mask and table belong together."""
        super().fits(axes)
        places, tokens = axes["G"], axes["N"]
        kept = self.context.kept.get("mask")
        visible = tokens if kept is None else kept.fewest
        if visible <= tokens < places:
            return
        raise SettingError(
            f"x has {tokens} tokens, and the mask leaves {visible} of {places} places visible",
            path=("in",),
            expected=f"the tokens of the {visible} visible places, and class tokens in front",
            help="say 'masked: drop' in the encoder, and give it the same mask",
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Predictions for every place."""
        if "mask" in self.context.kept:
            return self._decoded(x, visible_places(self, "mask", mask))
        return self._decoded(x, self._whole(x, mask))

    def evaluate(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same; where nothing is hidden there are tokens of every place."""
        return self._decoded(x, self._whole(x, mask))

    def _whole(self, x: Tensor, mask: Tensor) -> Tensor:
        """The places of all tokens of x, but for those that are more than there are places."""
        return first_visible(mask, min(x.shape[1], mask.shape[1]))

    def _decoded(self, x: Tensor, visible: Tensor) -> Tensor:
        x = self.embed(x)
        front = x.shape[1] - visible.shape[1]
        index = visible[:, :, None].expand(-1, -1, x.shape[2])
        places = self.mask_token.to(x.dtype).expand(len(x), len(self.positions), -1)
        places = places.scatter(1, index, x[:, front:]) + self.positions.to(x.dtype)
        if front:
            places = torch.cat([x[:, :front], places], 1)
        y: Tensor = self.head(self.norm(self.blocks(places))[:, front:])
        return y
