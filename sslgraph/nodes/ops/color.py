"""Operations on colours, pixel by pixel or about an image's mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from kornia import enhance
from kornia.color import rgb_to_grayscale
from pydantic import AfterValidator, Field
from torch import Tensor

from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops.base import (
    NotNegative,
    Number,
    Op,
    Params,
    Positive,
    Share,
    on_rows,
    ordered,
    values,
)

HueShare = Annotated[Number, Field(ge=0, le=0.5)]
# In the order of the setting's values. Each takes n C H W and n factors and clamps to [0, 1].
JITTER: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("brightness", enhance.adjust_brightness_accumulative),
    ("contrast", enhance.adjust_contrast_with_mean_subtraction),
    ("saturation", enhance.adjust_saturation_with_gray_subtraction),
    ("hue", enhance.adjust_hue),
)


class Jitter(
    Op,
    name="jitter",
    kornia=(
        "enhance.adjust_brightness_accumulative, adjust_contrast_with_mean_subtraction, "
        "adjust_saturation_with_gray_subtraction, adjust_hue"
    ),
):
    """Brightness, contrast, saturation, hue in each image's own order (SimCLR, appendix A).

    The definitions are torchvision's: brightness is a factor, contrast is about the mean of the
    gray image, saturation about the gray pixel, all in [max(0, 1 - x), 1 + x]; hue is a share of
    the circle in [-x, x]. kornia's `adjust_brightness` (which adds) and `adjust_contrast` (about
    black) are other things.
    """

    stays = frozenset({"order"})
    value: Annotated[
        tuple[NotNegative, NotNegative, NotNegative, HueShare],
        values("brightness", "contrast", "saturation", "hue"),
    ] = Field(alias="jitter", description="strengths: [brightness, contrast, saturation, hue]")
    p: Share = Field(1.0, description="chance that an image is jittered at all")

    @property
    def channels(self) -> int | None:
        """Saturation and hue are of RGB; brightness and contrast of anything."""
        return 3 if self.value[2] > 0 or self.value[3] > 0 else None

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`order`: B x 4, which one comes first, second, ...; and B factors of each by its name."""
        params = {"order": draws.permutation("order", len(JITTER))}
        for (name, _), strength in zip(JITTER, self.value, strict=True):
            if name == "hue":
                params[name] = draws.uniform(name, -strength, strength) * (2 * math.pi)
            else:
                params[name] = draws.uniform(name, max(0.0, 1 - strength), 1 + strength)
        return params

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Four rounds; in each, the images whose turn it is meet each of the four."""
        order = params["order"]
        for turn in range(len(JITTER)):
            for which, (name, adjust) in enumerate(JITTER):
                if self.value[which] > 0:
                    image = on_rows(
                        image,
                        order[:, turn] == which,
                        {"factor": params[name]},
                        lambda x, chosen, adjust=adjust: adjust(x, chosen["factor"]),  # type: ignore[misc]
                    )
        return image


class Gray(Op, name="gray", kornia="color.rgb_to_grayscale"):
    """Luma (ITU-R BT.601) in all three channels."""

    value: Share = Field(alias="gray", description="chance of losing the colours")

    @property
    def probability(self) -> float:
        """The value."""
        return self.value

    @property
    def channels(self) -> int | None:
        """RGB."""
        return 3

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Keep three channels."""
        return rgb_to_grayscale(image).repeat(1, 3, 1, 1)


class Solarize(Op, name="solarize", kornia="enhance.solarize"):
    """Pixels at or above a threshold become 1 - x (BYOL, appendix B)."""

    value: Share = Field(alias="solarize", description="threshold in [0, 1]")
    p: Share = Field(1.0, description="chance that an image is solarized")

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Invert what is bright."""
        return enhance.solarize(image, self.value)


class Invert(Op, name="invert", kornia="enhance.invert"):
    """1 - x."""

    value: Share = Field(alias="invert", description="chance of a negative")

    @property
    def probability(self) -> float:
        """The value."""
        return self.value

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Take the negative."""
        return enhance.invert(image)


class Equalize(Op, name="equalize", kornia="enhance.equalize"):
    """A flat histogram for each channel of each image."""

    value: Share = Field(alias="equalize", description="chance of equalizing")

    @property
    def probability(self) -> float:
        """The value."""
        return self.value

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Equalize in 256 levels."""
        return enhance.equalize(image)


class Posterize(Op, name="posterize", kornia="enhance.posterize"):
    """Only the upper bits of each 8-bit value."""

    value: Annotated[int, Field(strict=True, ge=1, le=8)] = Field(
        alias="posterize", description="bits that are kept"
    )
    p: Share = Field(1.0, description="chance that an image is posterized")

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Drop the lower bits."""
        return enhance.posterize(image, self.value)


class Gamma(Op, name="gamma", kornia="enhance.adjust_gamma"):
    """x ** gamma, with gamma uniform in a range."""

    value: Annotated[
        tuple[Positive, Positive], values("smallest", "largest"), AfterValidator(ordered)
    ] = Field(alias="gamma", description="exponent: [smallest, largest]")
    p: Share = Field(1.0, description="chance that an image is changed")

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`gamma`: B exponents."""
        return {"gamma": draws.uniform("gamma", *self.value)}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Raise to the exponent."""
        return enhance.adjust_gamma(image, params["gamma"])


class Sharpness(Op, name="sharpness", kornia="enhance.sharpness"):
    """Between a smoothed image (0), the image (1) and beyond it, as in PIL."""

    value: Annotated[
        tuple[NotNegative, NotNegative], values("smallest", "largest"), AfterValidator(ordered)
    ] = Field(alias="sharpness", description="factor: [smallest, largest]; 1 changes nothing")
    p: Share = Field(1.0, description="chance that an image is changed")

    def sample(self, draws: Draws, image: tuple[int, int, int], size: int) -> Params:
        """`factor`: B factors."""
        return {"factor": draws.uniform("factor", *self.value)}

    def apply(self, image: Tensor, params: Params, size: int) -> Tensor:
        """Move away from the smoothed image."""
        return enhance.sharpness(image, params["factor"])
