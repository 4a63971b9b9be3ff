"""Predictors of what stands at hidden places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from timm.layers.norm import LayerNorm
from torch import Tensor, nn

from sslgraph.nodes.base import SettingError
from sslgraph.nodes.decoders import OnGrid
from sslgraph.nodes.places import first_visible, hidden_places, visible_places
from sslgraph.nodes.regressor import CrossBlock
from sslgraph.nodes.transformers import TOKEN_STD, start_xavier
from sslgraph.ports import Identities, In, Member, Out, Ports


class TokenPredictor(OnGrid, use="token_predictor"):
    """A transformer that predicts hidden tokens from visible ones (I-JEPA, section 3).

    One learned token stands for each place to predict. Positions are a fixed table of sines and
    cosines. With `attention: joint` tokens of the context are projected to `width`, both get their
    positions, and all attend to all in every block; after a norm the rows of the places to predict
    are projected to `out`. First weights are normal, 0.02.

    With `attention: cross` it is the regressor of CAE (section 3.2): the context stays as it is,
    and the rows to predict attend to it and to each other, positions being added to queries and
    keys alone. There is no projection where the width is the same. First weights are Xavier's.

    Each view of `mask` is a prediction of its own, from the same view of x or from its only one.

    Shapes: x V B N D, tokens of the visible places in raster order; context_mask V B G of all
    places, true where x has no token; mask V' B G, true where to predict -> y V' B M D, places in
    raster order.
    """

    x = In("tokens", "V B N D")
    context_mask = In("mask", "V B G")
    mask = In("mask", "V' B G")
    y = Out("tokens", "V' B M D")
    prevents = "asymmetry"
    sample = {"width": 8, "depth": 1, "heads": 2}
    sample_axes = {"N": 2, "G": 4, "V'": 2}

    class Config(OnGrid.Config):
        """Settings.

        Attributes:
            width: Width of the blocks.
            depth: Number of blocks.
            heads: Attention heads of each block.
            attention: `joint`: context and predictions attend to each other; `cross`: predictions
                attend to both, and the context does not change.
            out: Width of the output; that of x if absent.
            grid: Rows and columns of the places; a square if absent.
        """

        width: PositiveInt = 384
        depth: PositiveInt = 12
        heads: PositiveInt = 12
        attention: Literal["joint", "cross"] = "joint"
        out: PositiveInt | None = None

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """The output as wide as the settings say."""
        declared = cls.declaration
        y = Out("tokens", "V' B M D" if config.out is None else "V' B M out")
        y.name = "y"
        return Ports(declared.inputs, {"y": y})

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Those of the places to predict."""
        return {"y": inputs["mask"]}

    @classmethod
    def review(cls, config: Any, inputs: Mapping[str, Identities]) -> str:
        """Contexts and places to predict come in pairs, but for a single context."""
        seen, asked = len(inputs["x"]), len(inputs["mask"])
        if seen in (1, asked):
            return ""
        return (
            f"masks of {asked} views do not fit {seen} views of x; give as many of both, or one "
            "view of x"
        )

    @classmethod
    def even(cls, config: Any) -> Mapping[str, str]:
        """All rows attend to all, so there are no rows to fill up with."""
        return {"context_mask": "", "mask": ""}

    def build(self, D: int, G: int) -> None:
        """Make the layers for tokens of width D on a grid of G places."""
        width, out = self.config.width, self.config.out or D
        cross = self.config.attention == "cross"
        self.embed: nn.Module = nn.Linear(D, width)
        self.head: nn.Module = nn.Linear(width, out)
        if cross:
            self.make_blocks(G, CrossBlock)
            self.embed = nn.Identity() if width == D else self.embed
            self.head = nn.Identity() if out == width else self.head
            start_xavier(self)
        else:
            self.make_blocks(G, qkv_bias=True, norm_layer=LayerNorm)
            self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """First weights from N(0, 0.02), biases zero."""
        nn.init.trunc_normal_(self.mask_token, std=TOKEN_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=TOKEN_STD)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, context_mask: Tensor, mask: Tensor) -> Tensor:
        """Predictions for the places that the mask hides."""
        return self._predicted(x, self._seen(x, context_mask), mask)

    def evaluate(self, x: Tensor, context_mask: Tensor, mask: Tensor) -> Tensor:
        """The same; nothing is hidden from x then, and predictions are of the first places."""
        return self._predicted(x, first_visible(context_mask, x.shape[2]), mask)

    def _seen(self, x: Tensor, mask: Tensor) -> Tensor:
        """The places of the tokens of x, V B N."""
        seen = visible_places(self, "context_mask", mask)
        if seen.shape[2] == x.shape[2]:
            return seen
        raise SettingError(
            f"x has {x.shape[2]} tokens, and context_mask leaves {seen.shape[2]} places visible",
            path=("in",),
            expected="the tokens of the visible places and no others",
            help="say 'masked: drop' in the encoder, give it the same mask, and take its 'tokens'",
        )

    def _predicted(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        table = self.positions.to(x.dtype)
        asked = table[hidden_places(self, "mask", mask)]
        views, context = len(asked), self.embed(x)
        known = table[seen].expand(views, -1, -1, -1).flatten(0, 1)
        context = context.expand(views, -1, -1, -1).flatten(0, 1)
        rows = self._run(context, known, asked.flatten(0, 1))
        y: Tensor = self.head(self.norm(rows)).unflatten(0, asked.shape[:2])
        return y

    def _run(self, context: Tensor, seen: Tensor, asked: Tensor) -> Tensor:
        """What the blocks make of the rows to predict, at the positions `asked`."""
        token = self.mask_token.to(context.dtype)
        if self.config.attention == "joint":
            together: Tensor = self.blocks(torch.cat([context + seen, token + asked], 1))
            return together[:, seen.shape[1] :]
        rows: Tensor = token.expand_as(asked)
        for block in self.blocks:
            rows = block(rows, context, asked, seen)
        return rows
