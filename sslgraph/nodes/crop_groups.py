"""Groups of crops: settings, the operations that each comes to, and what can not be meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from sslgraph.errors import did_you_mean
from sslgraph.nodes.ops import OpSetting, wrong_views
from sslgraph.nodes.ops.base import Positive, ordered, values
from sslgraph.nodes.ops.crop import AreaShare, CropInterpolation, see_resampling
from sslgraph.nodes.ops.groups import GroupedOp, ops_of_groups
from sslgraph.nodes.views import refuse_order
from sslgraph.schedules import fault

BOXES = frozenset({"crop", "flip", "vflip"})
"""Operations that a group `of:` another has in common with it."""

_TAKEN = frozenset({"each", "mean", "std", "image", "position"})
_OF_THE_OTHER = ("views", "scale", "ratio")


class CropGroup(BaseModel):
    """Views of one size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: PositiveInt = Field(1, description="number of views")
    size: PositiveInt = Field(description="side of a view in pixels")
    scale: (
        Annotated[
            tuple[AreaShare, AreaShare], values("smallest", "largest"), AfterValidator(ordered)
        ]
        | None
    ) = Field(
        None,
        description="share of the image's area: the list of operations then begins with a `crop`",
    )
    ratio: Annotated[
        tuple[Positive, Positive], values("smallest", "largest"), AfterValidator(ordered)
    ] = Field((3 / 4, 4 / 3), description="width / height of that crop")
    interpolation: CropInterpolation = Field("bilinear", description="of that crop")
    antialias: bool = Field(
        True, strict=True, description="of that crop; small views leave out many pixels"
    )
    ops: list[OpSetting] | None = Field(
        None, description="operations of this group in the place of the common list"
    )
    of: str | None = Field(
        None,
        description="group whose boxes and flips it has, at its own size and with its own colours",
    )

    @field_validator("ops")
    @classmethod
    def _in_order(cls, ops: list[OpSetting] | None) -> list[OpSetting] | None:
        refuse_order(ops or [])
        return ops

    @model_validator(mode="after")
    def _resampled(self) -> CropGroup:
        see_resampling(self.interpolation, antialias=self.antialias)
        return self

    @model_validator(mode="after")
    def _boxes_of_the_other(self) -> CropGroup:
        if self.of is None:
            return self
        own = [name for name in _OF_THE_OTHER if name in self.model_fields_set]
        own += [op.name for op in self.ops or () if op.name in BOXES]
        if own:
            raise fault(
                f"'{own[0]}' is that of '{self.of}'",
                expected="size, interpolation, antialias and colours beside 'of'",
                help=f"delete '{own[0]}', or 'of'",
            )
        return self

    def crop(self) -> list[OpSetting]:
        """The crop that `scale` stands for."""
        if self.scale is None:
            return []
        written = {
            "crop": self.scale,
            "ratio": self.ratio,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
        }
        return [OpSetting.parse(written)]


def views_of(crops: Mapping[str, CropGroup], group: CropGroup) -> int:
    """Number of views; a group `of:` another has as many as that one."""
    return crops[group.of].views if group.of else group.views


def sharing(crops: Mapping[str, CropGroup]) -> dict[str, int]:
    """The groups that the common list is for, with their number of views."""
    return {name: views_of(crops, group) for name, group in crops.items() if group.ops is None}


def see_groups(crops: Mapping[str, CropGroup]) -> None:
    """Refuse names, origins and counts that don't fit.

    Raises:
        ValidationError: Some don't; `errors()` gives the places.
    """
    wrong = [*_bad_names(crops), *_bad_origins(crops)] or [*_bad_counts(crops)]
    if wrong:
        raise ValidationError.from_exception_data("crops", wrong)
    for name, group in crops.items():
        refuse_second_crop(group.ops or [], {name: group})


def refuse_second_crop(
    ops: Sequence[OpSetting | GroupedOp], crops: Mapping[str, CropGroup]
) -> None:
    """Refuse a `crop` in the list of groups whose `scale` is one already."""
    scaled = next((name for name, group in crops.items() if group.scale is not None), None)
    place = next((at for at, op in enumerate(ops) if op.name == "crop"), None)
    if scaled is not None and place is not None:
        raise fault(
            f"operation {place} (crop) crops '{scaled}' a second time",
            expected="one crop: 'scale' of the group, or a 'crop' among the operations",
            help="delete one of them",
        )


def lists_of(
    crops: Mapping[str, CropGroup], common: Sequence[GroupedOp]
) -> dict[str, list[OpSetting]]:
    """The operations of each group in order, its crop included.

    Args:
        crops: The groups.
        common: The list of those that have none of their own.
    """
    shared = ops_of_groups(common, sharing(crops))
    whole = {
        name: [*group.crop(), *(shared[name] if group.ops is None else group.ops)]
        for name, group in crops.items()
    }
    return {
        name: _of_another(group, crops[group.of], whole[name], whole[group.of])
        if group.of
        else whole[name]
        for name, group in crops.items()
    }


def _of_another(
    group: CropGroup, other: CropGroup, own: list[OpSetting], others: list[OpSetting]
) -> list[OpSetting]:
    """Boxes and flips of another group, and what else a group does itself.

    A common list keeps its order, such as colours before the crop; what a group does by a list of
    its own comes after.
    """
    crop = []
    if other.scale is not None:  # resampled as this group says
        how = {"interpolation": group.interpolation, "antialias": group.antialias}
        crop, others = other.model_copy(update=how).crop(), others[1:]
    if group.ops is None and other.ops is None:
        return [*crop, *own]
    boxes = [op for op in others if op.name in BOXES]
    return [*crop, *boxes, *(op for op in own if op.name not in BOXES)]


def _bad_names(crops: Mapping[str, CropGroup]) -> Iterator[InitErrorDetails]:
    for name, group in crops.items():
        if name in _TAKEN or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            text = fault(
                f"a group can't be called '{name}'",
                expected="a name such as global or local: small letters, digits and _",
                help="the language uses this word itself" if name in _TAKEN else "",
            )
            yield InitErrorDetails(type=text, loc=(name,), input=group)


def _bad_origins(crops: Mapping[str, CropGroup]) -> Iterator[InitErrorDetails]:
    possible = [name for name, group in crops.items() if group.of is None]
    for name, group in crops.items():
        if group.of is None or group.of in possible:
            continue
        text = fault(
            f"there is no group '{group.of}' with boxes of its own",
            expected="a group of `crops` that has no 'of'",
            help=did_you_mean(group.of, possible, show="groups"),
        )
        yield InitErrorDetails(type=text, loc=(name, "of"), input=group.of)


def _bad_counts(crops: Mapping[str, CropGroup]) -> Iterator[InitErrorDetails]:
    for name, group in crops.items():
        views = views_of(crops, group)
        for place, op, given in wrong_views(group.ops or [], views):
            text = fault(
                f"'each' of '{op}' gives {given} values for {views} views",
                expected="one value a view",
            )
            yield InitErrorDetails(type=text, loc=(name, "ops", place), input=op)
