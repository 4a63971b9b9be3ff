"""BYOL with a masked online network, by hand with torch and timm; the package is not imported.

The online transformer takes in half of the patches of each view, those that its mask leaves visible
(as MAE's encoder does); the target takes in all. All else is BYOL's.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.methods.byol_by_hand import Byol, regression
from tests.methods.simclr_by_hand import Sample, mix, text_key


def visible_places(seed: int, view: int, positions: Tensor, places: int, count: int) -> Tensor:
    """For each image of a view the places that stay, B count, in raster order."""
    key = text_key("mask")
    rows = [
        sorted(Sample(mix(seed, key, view, place)).order("order", places)[:count])
        for place in positions.tolist()
    ]
    return torch.tensor(rows)


class MaskedByol(Byol):
    """Online and target networks; a transformer of patches is the encoder."""

    def __init__(self, arch: str, size: int, hidden: int, out: int) -> None:
        encoder: Any = timm.create_model(arch, num_classes=0, img_size=size)
        super().__init__(arch, encoder.num_features, hidden, out)
        self.encoder = encoder

    def seen(self, images: Tensor, visible: Tensor) -> Tensor:
        """What the class token has found in the visible patches."""
        encoder: Any = self.encoder
        x = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = x + encoder.pos_embed[:, 1:]
        x = torch.stack([tokens[places] for tokens, places in zip(x, visible, strict=True)])
        first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = encoder.blocks(torch.cat([first, x], 1))
        found: Tensor = encoder.norm(x)[:, 0]
        return found

    def masked(self, views: Tensor, visible: list[Tensor]) -> Tensor:
        """The loss of both directions: each masked view predicts the other one as a whole."""
        predictions = [
            self.predictor(self.projector(self.seen(view, places)))
            for view, places in zip(views, visible, strict=True)
        ]
        with torch.no_grad():
            first, second = (self.target(view) for view in views)
        return regression(predictions[0], second) + regression(predictions[1], first)

    def optimizer(self, weight_decay: float) -> torch.optim.Optimizer:
        """AdamW that decays neither biases nor norms; tokens and positions it does."""
        parts: list[nn.Module] = [self.encoder, self.projector, self.predictor]
        groups: dict[float, list[nn.Parameter]] = {weight_decay: [], 0.0: []}
        for module in [module for part in parts for module in part.modules()]:
            norm = isinstance(module, (nn.LayerNorm, nn.BatchNorm1d))
            for name, parameter in module.named_parameters(recurse=False):
                groups[0.0 if norm or name == "bias" else weight_decay].append(parameter)
        return torch.optim.AdamW(
            [{"params": found, "weight_decay": decay} for decay, found in groups.items()], lr=0.0
        )
