"""Standardised channels: the one operation that an evaluation applies too."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from kornia import enhance
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sslgraph.nodes.ops.base import Number, Op, Params, Positive
from sslgraph.schedules import fault

Preset = Literal["imagenet", "half", "swav", "clip", "cifar"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

PRESETS: dict[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # [0, 1] to [-1, 1]
    "swav": ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225)),  # 0.228 as in the code of SwAV
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # as in the code of SupCon
}


class MeanStd(BaseModel):
    """Statistics of one's own, one number a channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Annotated[list[Number], Field(min_length=1)] = Field(description="mean of each channel")
    std: Annotated[list[Positive], Field(min_length=1)] = Field(
        description="standard deviation of each channel"
    )

    @model_validator(mode="after")
    def _same_length(self) -> MeanStd:
        if len(self.mean) != len(self.std):
            raise fault(
                f"{len(self.mean)} means and {len(self.std)} standard deviations",
                expected="one mean and one standard deviation a channel",
            )
        return self


class Normalize(Op, name="normalize", kornia="enhance.normalize"):
    """(x - mean) / std for each channel."""

    value: Preset | MeanStd = Field(
        alias="normalize", description="a name, or {mean: [...], std: [...]}"
    )

    @property
    def statistics(self) -> Statistics:
        """Mean and standard deviation, a number a channel."""
        if isinstance(self.value, MeanStd):
            return tuple(self.value.mean), tuple(self.value.std)
        return PRESETS[self.value]

    @property
    def channels(self) -> int | None:
        """As many as there are statistics; `half`, and a single one, are for any number."""
        count = len(self.statistics[0])
        return None if count == 1 or self.value == "half" else count

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Subtract and divide."""
        mean, std = (list(s) if self.channels else [s[0]] for s in self.statistics)
        return enhance.normalize(
            image,
            torch.tensor(mean, dtype=image.dtype, device=image.device),
            torch.tensor(std, dtype=image.dtype, device=image.device),
        )

    def evaluate(self, image: Tensor, size: int) -> Tensor:
        """The same."""
        return self.apply(image, {}, size)
