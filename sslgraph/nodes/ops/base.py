"""What an augmentation operation is: settings, a sampler of parameters, and a kornia call.

The two halves never mix: `sample` draws and sees no pixel, `apply` works on pixels and draws
nothing. Between them stands a table of parameters with one row a sample, so any rows of a batch can
be computed apart from the others: those an operation hits, or as many as the cache holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from sslgraph.nodes.keyed import Draws
from sslgraph.schedules import fault

Params = dict[str, Tensor]  # every value has the batch as its first axis
Size = tuple[int, int]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Side = Annotated[int, Field(strict=True, ge=1)]
Interpolation = Literal["bilinear", "bicubic"]

TABLE: dict[str, type[Op]] = {}


class Op(BaseModel):
    """One operation with plain values; `{each: [...]}` is resolved to one of these per view.

    Subclass with ``class Blur(Op, name="blur", kornia="filters.gaussian_blur2d")``. The field
    `value`, whose alias is the name, is what stands behind the operation's name in the list;
    further fields are further keys. `kornia` names the function that computes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)

    name: ClassVar[str]
    kornia: ClassVar[str]
    spatial: ClassVar[bool] = False  # part of the evaluation view: changes the size, has no chance
    unit_range: ClassVar[bool] = True  # takes pixels in [0, 1], so nothing that is normalised
    stays: ClassVar[frozenset[str]] = frozenset()  # parameters that say which rows: not moved

    def __init_subclass__(cls, name: str = "", kornia: str = "", **keywords: object) -> None:
        super().__init_subclass__(**keywords)  # type: ignore[arg-type]
        if name:
            cls.name, cls.kornia = name, kornia
            TABLE[name] = cls

    @property
    def probability(self) -> float:
        """Chance that a sample is hit."""
        return float(getattr(self, "p", 1.0))

    @property
    def channels(self) -> int | None:
        """The number of channels it needs, None for any."""
        return None

    def output_size(self, height: int, width: int, size: int) -> Size:
        """Height and width of what it makes of an image, where the view has side `size`.

        Raises:
            ValueError: The image is too small for it.
        """
        return height, width

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """Parameters of B samples whose images are `image` = (C, H, W)."""
        return {}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Work on n C H W float images in [0, 1] with n rows of parameters.

        The images may be overwritten; the result must be writable (no expanded view).
        """
        raise NotImplementedError

    def evaluate(self, image: Tensor, size: int) -> Tensor:
        """What it does to the deterministic view of an evaluation: nothing unless overridden."""
        return image


Work = Callable[[Tensor, Params], Tensor]


def on_rows(image: Tensor, rows: Tensor, params: Params, work: Work) -> Tensor:
    """Replace the rows of `image` where `rows` holds by `work` on them; may write into `image`.

    A mask on the CPU selects, so the others cost nothing. A mask on an accelerator would have to be
    waited for; there all rows are computed and the mask chooses.

    Args:
        image: n C H W.
        rows: n bools.
        params: Parameters, n rows each.
        work: Takes some rows of the image and of the parameters, keeps the size.
    """
    return (on_selected if rows.device.type == "cpu" else on_masked)(image, rows, params, work)


def on_selected(image: Tensor, rows: Tensor, params: Params, work: Work) -> Tensor:
    """`on_rows` that computes only the rows."""
    hit = rows.nonzero().squeeze(1)
    if len(hit) == 0:
        return image
    if len(hit) == len(rows):
        return work(image, params)
    there = hit.to(image.device, non_blocking=True)
    chosen = {
        name: value.index_select(0, there if value.device == image.device else hit)
        for name, value in params.items()
    }
    return image.index_copy_(0, there, work(image.index_select(0, there), chosen))


def on_masked(image: Tensor, rows: Tensor, params: Params, work: Work) -> Tensor:
    """`on_rows` that computes all rows and waits for nothing."""
    return torch.where(rows[:, None, None, None], work(image.clone(), params), image)


def values(*names: str) -> BeforeValidator:
    """A check that a setting is a list of as many numbers as there are names."""

    def check(value: object) -> object:
        wanted = f"[{', '.join(names)}]"
        if not isinstance(value, (list, tuple)):
            raise fault(f"{value!r} is not a list", expected=f"{len(names)} values, {wanted}")
        if len(value) != len(names):
            counted = f"{len(value)} value{'s' if len(value) != 1 else ''}"
            raise fault(f"{counted}, not {len(names)}", expected=f"{wanted}")
        return tuple(value)

    return BeforeValidator(check)


def ordered(pair: tuple[float, float]) -> tuple[float, float]:
    """Refuse a range whose ends are swapped."""
    if pair[0] > pair[1]:
        raise fault(
            f"the range [{pair[0]:g}, {pair[1]:g}] is empty",
            expected="[smallest, largest]",
            help=f"write [{pair[1]:g}, {pair[0]:g}]",
        )
    return pair
