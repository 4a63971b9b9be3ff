"""The `train:` block of a run and of a node, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    model_validator,
)

from sslgraph.schedules import Bounds, Finite, Number, Time, fault

Group = Literal[
    "bias", "norm", "1d", "position", "cls", "mask_token", "patch_embed", "layer_scale", "learned"
]
"""Parameters by what they are: biases, normalisation layers, one-dimensional tensors, position
embeddings, class tokens and register tokens, mask tokens, all of the patch embedding, factors of
residual branches, trained scalars."""

Beta = Annotated[Finite, Field(ge=0, lt=1)]
Factor = Annotated[Finite, Field(ge=0)]


class Spec(BaseModel):
    """A part of a graph that stays the same for every node type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Factors(Spec):
    """What the learning rate of a kind of parameter is multiplied by; of several kinds, by all."""

    bias: Factor = Field(1.0, description="biases")
    norm: Factor = Field(1.0, description="normalisation layers")
    one_axis: Factor = Field(1.0, alias="1d", description="one-dimensional tensors")
    position: Factor = Field(1.0, description="position embeddings")
    cls: Factor = Field(1.0, description="class tokens and register tokens")
    mask_token: Factor = Field(1.0, description="mask tokens")
    patch_embed: Factor = Field(1.0, description="all of the patch embedding")
    layer_scale: Factor = Field(1.0, description="factors of residual branches")
    learned: Factor = Field(1.0, description="trained scalars")

    def of(self, kinds: Set[Group]) -> float:
        """The product of the factors of the kinds that a parameter is of."""
        names = {field.alias or name: name for name, field in type(self).model_fields.items()}
        factors: list[float] = [getattr(self, names[kind]) for kind in sorted(kinds)]
        return math.prod(factors)


class Drops(Spec):
    """A learning rate that stays, but is multiplied by `times` at some points of the run."""

    times: Annotated[Finite, Field(gt=0)]
    at: Annotated[tuple[Time, ...], Field(strict=False, min_length=1)]


def _form_of_shape(value: object) -> str:
    return "drops" if isinstance(value, (Mapping, Drops)) else "a word"


Shape = Annotated[
    Annotated[Literal["cosine", "constant"], Tag("a word")] | Annotated[Drops, Tag("drops")],
    Discriminator(_form_of_shape),
]


class LearningRate(Spec):
    """How large a step is: warmed up along a line from `start`, then moving to `end`."""

    peak: Annotated[Finite, Field(ge=0)] | None = Field(None, description="as it is")
    base: Annotated[Finite, Field(ge=0)] | None = Field(None, description="for `per` samples")
    per: PositiveInt | Annotated[str, Field(pattern=r"^sqrt [1-9][0-9]*$")] = Field(
        256, description="256: base x batch / 256; sqrt 1: base x sqrt(batch / 1)"
    )
    warmup: Time = Time(0, "steps")
    start: Annotated[Finite, Field(ge=0)] = 0.0
    end: Annotated[Finite, Field(ge=0)] = 0.0
    shape: Shape = Field(
        "cosine", description="after the warm-up; {times: 0.1, at: [60%, 80%]} drops it there"
    )
    over: Time | None = Field(
        None, description="how long warm-up and cosine are together; as long as the run if absent"
    )
    by: Literal["step", "epoch"] = "step"
    scale: Factors = Field(
        default_factory=Factors, description="kinds of parameters with another rate: {bias: 0.1}"
    )
    layer_decay: Annotated[Finite, Field(gt=0, le=1)] = Field(
        1.0,
        description="factor from each block of an encoder to the one before it; 1 behind the last",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        bare = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {"peak": value} if bare else value

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.peak is None) == (self.base is None):
            raise fault(
                "a learning rate has one size",
                expected="'peak: x', or 'base: x' that grows with the batch by 'per'",
                help="write one of them"
                if self.peak is None
                else "delete the other one with 'null' where it comes from 'extends' or a preset",
            )
        if self.peak is not None and "per" in self.model_fields_set:
            raise fault(
                "'per' has no effect on 'peak'",
                expected="'base' with 'per', or 'peak' alone",
            )
        if self.shape != "cosine" and self.over is not None:
            raise fault(
                "'over' has no effect without a cosine",
                expected="'shape: cosine' with 'over', or neither",
                help="delete 'over' (with 'null' where it is inherited)",
            )
        if self.over is not None and self.over.value == 0:
            raise fault("a cosine takes some time", expected="such as 'over: 125%'")
        return self

    def scaled(self, batch_size: int) -> float:
        """The highest learning rate of a run with this many samples an optimizer step."""
        if self.peak is not None:
            return self.peak
        assert self.base is not None  # the validator saw to it
        if isinstance(self.per, int):
            return self.base * batch_size / self.per
        return self.base * math.sqrt(batch_size / int(self.per.split()[1]))


class BatchNormSpec(Spec):
    """Which samples share the statistics of batch norm; a bare word says `ranks`."""

    per: Literal["view", "none"] = Field("view", description="none: all views in one batch")
    ranks: Literal["all", "own", "shuffled"] = Field(
        "all",
        description="processes that share statistics; shuffled: each has its own, of samples dealt "
        "out anew at each call",
    )
    groups: PositiveInt = Field(
        1, description="parts of a process's samples, each with statistics as of its own process"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"ranks": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _groups_stay_apart(self) -> Self:
        if self.groups > 1 and self.ranks == "all":
            raise fault(
                "groups have no statistics of their own where all processes share them",
                expected="'ranks: own' or 'ranks: shuffled' beside 'groups'",
                help="say 'ranks', which is 'all' if absent, or delete 'groups'",
            )
        return self


def _scope(value: object) -> object:
    """One text for whatever is no scope, as pydantic would say what is wrong with each form."""
    lists = value if isinstance(value, list) else []
    whole = [item for item in lists if isinstance(item, list) and item]
    names = all(isinstance(name, str) for item in whole for name in item)
    if value in ("run", "tensor", "node") or (names and whole and len(whole) == len(lists)):
        return value
    bare = lists and all(isinstance(item, str) for item in lists)
    raise fault(
        "not what gradients can be clipped by",
        expected="run, tensor, node, or lists of nodes such as [[encoder], [head, scores]]",
        help=f"write [[{', '.join(lists)}]] for one norm over these nodes" if bare else "",
    )


ClipScope = Annotated[
    Literal["run", "tensor", "node"]
    | Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=1)],
    BeforeValidator(_scope),
]


class Clip(Spec):
    """Gradient clipping: what has a larger norm than `norm` is scaled down to it."""

    norm: Annotated[Finite, Field(gt=0)]
    scope: ClipScope = Field(
        "run",
        description="what has one norm: all gradients, each tensor, each node, or each list of "
        "nodes, where a node in no list is not clipped",
    )


class TrainSpec(Spec):
    """The `train:` block of a run."""

    optimizer: Literal["sgd", "lars", "larc", "adam", "adamw"] = "adamw"
    momentum: Annotated[Finite, Field(ge=0, lt=1)] = Field(0.9, description="of sgd, lars, larc")
    nesterov: bool = Field(False, description="of sgd")
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = Field(
        (0.9, 0.999), description="of adam and adamw"
    )
    eps: Annotated[Finite, Field(gt=0)] = Field(1e-8, description="of adam and adamw")
    trust_coefficient: Annotated[Finite, Field(gt=0)] = Field(0.001, description="of lars and larc")
    form: Literal["pre", "post"] = Field(
        "post", description="of lars: learning rate before or after the momentum buffer"
    )
    lr: LearningRate = Field(default_factory=lambda: LearningRate(peak=1e-3))
    weight_decay: Annotated[Number, Bounds(ge=0)] = 0.0
    no_decay: list[Group] = Field(
        [], description="no weight decay on these, and with lars no trust ratio either"
    )
    clip: Clip | None = None
    epochs: PositiveInt | None = Field(None, description="length of the run; or `steps`")
    steps: PositiveInt | None = Field(None, description="length of the run; or `epochs`")
    epoch: Time | None = Field(
        None, description="steps of an epoch; one pass over the data if absent"
    )
    batch_size: PositiveInt = Field(
        256, description="samples an optimizer step, over all processes"
    )
    accumulate: PositiveInt = Field(1, description="forward passes an optimizer step")
    batch_norm: BatchNormSpec = Field(default_factory=BatchNormSpec)
    amp: Literal["none", "bf16"] = "none"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise fault(
                "a run has one length",
                expected="'epochs' or 'steps'",
                help="delete the other one with 'null' where it comes from 'extends' or a preset",
            )
        if self.epoch is not None and self.epoch.unit != "steps":
            raise fault("'epoch' is a number of steps", expected="such as 'epoch: 1250 steps'")
        return self

    @property
    def length(self) -> Time:
        """How long the run is: 100 epochs unless `epochs` or `steps` says."""
        if self.steps is not None:
            return Time(self.steps, "steps")
        return Time(self.epochs or 100, "epochs")


class Scale(Spec):
    """A node's learning rate relative to the run's."""

    scale: Annotated[Finite, Field(ge=0)]

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        rates = LearningRate.model_fields.keys() - {"scale"}
        own = [key for key in value if key in rates] if value else []
        if own:
            raise fault(
                f"'scale' and '{own[0]}' don't go together",
                expected="'scale' alone, or a learning rate of the node's own: 'peak' or 'base'",
                help="delete one with 'null' where it comes from 'extends' or a preset",
            )
        return value


def _form_of_rate(value: object) -> str:
    """Which form of a node's learning rate is meant; the words are no keys of either."""
    if isinstance(value, Mapping):
        scale = value.get("scale")
        scaled = "scale" in value and not isinstance(scale, (Mapping, Factors))
    else:
        scaled = isinstance(value, Scale)
    return "a scale" if scaled else "a whole rate"


NodeRate = Annotated[
    Annotated[Scale, Tag("a scale")] | Annotated[LearningRate, Tag("a whole rate")],
    Discriminator(_form_of_rate),
]
"""A node's learning rate: the run's times a number, or one of its own."""


class NodeTrain(Spec):
    """The `train:` block of a node, laid over the run's; `train: false` trains nothing."""

    enabled: bool = True
    lr: NodeRate | None = Field(None, description="{scale: 0.1} of the run's, or one of its own")
    weight_decay: Annotated[Number, Bounds(ge=0)] | None = None
    freeze: Time | None = Field(None, description="how long it doesn't train at first")
    how: Literal["no_grad", "zero_lr"] = Field(
        "no_grad",
        description="frozen without gradients, which the optimizer skips, or at learning rate 0, "
        "while its moments gather",
    )
    recompute: bool = Field(
        False, description="compute it again in the backward pass instead of keeping activations"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _frozen_somehow(self) -> Self:
        if self.freeze is None and "how" in self.model_fields_set:
            raise fault(
                "'how' has no effect without 'freeze'",
                expected="'freeze' beside it, such as 'freeze: 1 epoch'",
                help="add 'freeze', or delete 'how' (with 'null' where it is inherited)",
            )
        return self
