"""What a teacher's logits go through before a student is to match them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.ranks import sum_over_ranks
from sslgraph.ports import In, Member, Out, Ports
from sslgraph.schedules import Bounds, Number, fault


class Center(Node, use="center"):
    """Take a slow mean of the logits off them, against one prototype for all (DINO, equation 4).

    y = x - c. The center c begins at 0. A batch is centred with the c of the batches before it;
    then c <- momentum c + (1 - momentum) mean(x), of the logits as they came, over all rows of all
    processes. Rows whose `weight` is 0 are centred too, but are not in the mean; where no row is, c
    stays.

    Shapes: x V B ... K, weight V B ... -> y V B ... K.
    """

    x = In("logits", "V B ... K", at="both")
    weight = In("weight", "V B ...", optional=True, at="write")
    y = Out("logits", "V B ... K")
    writes = "batch"
    prevents = "centering"
    sample = {"momentum": 0.9}

    class Config(Node.Config):
        """Settings.

        Attributes:
            momentum: How much of itself the center keeps with each batch.
            per: `view` gives each view a center of its own; `none` has one for all.
            ranks: Whose samples the mean is over: of all processes, or each its own.
        """

        momentum: Annotated[Number, Bounds(ge=0, le=1)] = 0.9
        per: Literal["view", "none"] = "none"
        ranks: Literal["all", "own"] = "all"

    momentum: Tensor
    center: Tensor

    def build(self, K: int) -> None:
        """Begin with a center of zeros."""
        views = 1
        if self.config.per == "view":
            views = len(self.context.views.get("x", ()))
            if not views:
                raise SettingError(
                    "outside a graph it is not known how many views there are", path=("per",)
                )
        self.register_buffer("center", torch.zeros(views, K))

    def forward(self, x: Tensor) -> Tensor:
        """The logits less the center of earlier batches."""
        views = self.center.view(len(self.center), *[1] * (x.dim() - 2), -1)
        return at_least_float32(x) - (views if len(views) > 1 else self.center[0])

    def evaluate(self, x: Tensor) -> Tensor:
        """The same; the one view of an evaluation has the mean of all centers."""
        return at_least_float32(x) - self.center.mean(0)

    def write(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Move the center towards the mean of a batch."""
        rows = at_least_float32(x)
        counts = rows.new_ones(x.shape[:-1])
        if weight is not None:
            counts = (weight != 0).to(rows.dtype).expand_as(counts)
        rows = torch.where(counts.unsqueeze(-1) > 0, rows, 0).reshape(
            len(self.center), -1, x.shape[-1]
        )
        sums = torch.cat(
            [rows.sum(1), counts.reshape(len(self.center), -1).sum(1, keepdim=True)], 1
        )
        if self.config.ranks == "all":
            sums = sum_over_ranks(sums)
        count = sums[:, -1:]
        mean = torch.where(count > 0, sums[:, :-1] / count.clamp(min=1), self.center)
        rate = 1 - self.momentum
        self.center.lerp_(mean.to(self.center.dtype), rate.to(self.center.dtype))


class Sharpen(Node, use="sharpen"):
    """Make a distribution more certain of its largest values (DINO, section 3.1).

    Of logits softmax(x / temperature); of probabilities x^power, divided by its sum. With both
    settings logits are turned into probabilities, which are then raised.

    Shapes: x ... K -> y ... K, rows that sum to 1, float32.
    """

    x = In("logits/probs", "... K")
    y = Out("probs", "... K")
    prevents = "sharpening"
    sample = {"temperature": 0.5}

    class Config(Node.Config):
        """Settings. With `temperature` the input is logits, with `power` alone probabilities."""

        temperature: Annotated[Number, Bounds(gt=0)] | None = Field(
            None, description="divides the logits; below 1 it sharpens"
        )
        power: Annotated[Number, Bounds(gt=0)] | None = Field(
            None, description="to which probabilities are raised; above 1 it sharpens"
        )

        @model_validator(mode="after")
        def _something(self) -> Sharpen.Config:
            if self.temperature is None and self.power is None:
                raise fault(
                    "nothing says how much to sharpen",
                    expected="'temperature' for logits, or 'power' for probabilities",
                    help="add 'temperature: 0.04'",
                )
            return self

    temperature: Tensor | None
    power: Tensor | None

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """What divides logits takes logits, what raises probabilities takes these."""
        declared = cls.declaration
        x = In("probs" if config.temperature is None else "logits", "... K")
        x.name = "x"
        return Ports({"x": x}, declared.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The sharper distribution."""
        with exact(x):
            y = at_least_float32(x)
            if self.temperature is not None:
                y = (y / self.temperature).softmax(-1)
            if self.power is not None:
                y = (y / y.amax(-1, keepdim=True)) ** self.power  # so that no sum is 0
                y = y / y.sum(-1, keepdim=True)
            return y
