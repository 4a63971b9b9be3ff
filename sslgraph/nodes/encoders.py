"""Encoders: any timm model as a node."""

from __future__ import annotations

from typing import Any, Literal

import timm
from pydantic import Field, PositiveInt, field_validator
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from sslgraph.errors import did_you_mean
from sslgraph.nodes.base import Node, SettingError
from sslgraph.ports import In, Out
from sslgraph.schedules import fault
from sslgraph.train_spec import BatchNormSpec

Readout = Literal["own", "cls", "mean"]
_POOLING = {"cls": "token", "mean": "avg"}
_OWN_ARGUMENTS = frozenset(
    {"model_name", "pretrained", "pretrained_cfg", "num_classes", "in_chans", "img_size"}
    | {"dynamic_img_size", "global_pool", "drop_path_rate", "checkpoint_path", "features_only"}
)


class Encoder(Node, use="encoder"):
    """A timm model without its classifier.

    `embedding` is the pooled feature that timm's classifier would see, `tokens` the last feature
    map, a row of D numbers a place, class and register tokens left out.

    Shapes: image B C H W -> embedding B D, tokens B N D.
    """

    image = In("image", "B C H W")
    embedding = Out("embedding", "B D")
    tokens = Out("tokens", "B N D")
    sample = {"arch": "resnet10t"}

    class Config(Node.Config):
        """Settings.

        Attributes:
            arch: Name of a timm model, such as `resnet50` or `vit_small_patch16_224`.
            readout: What `embedding` is: the model's own choice, its class token, or the mean
                token.
            image_size: A size in pixels that the model is built for and others are refused;
                `dynamic` interpolates position embeddings; the size of the first input if absent.
            drop_path: Highest rate of stochastic depth.
            args: Further arguments of `timm.create_model`.
            batch_norm: Whose samples share statistics; the run's rule if absent.
        """

        arch: str
        readout: Readout = "own"
        image_size: PositiveInt | Literal["dynamic"] | None = None
        drop_path: float = Field(default=0.0, ge=0, lt=1)
        args: dict[str, Any] = {}
        batch_norm: BatchNormSpec | None = None

        @field_validator("arch")
        @classmethod
        def _known(cls, arch: str) -> str:
            if not timm.is_model(arch):
                hint = did_you_mean(arch, timm.list_models(), show="timm models")
                raise fault(f"timm has no model '{arch}'", help=hint)
            return arch

        @field_validator("args")
        @classmethod
        def _further(cls, args: dict[str, Any]) -> dict[str, Any]:
            own = sorted(_OWN_ARGUMENTS & set(args))
            if own:
                raise fault(
                    f"'{own[0]}' is not for `args`",
                    help="use arch, readout, image_size, drop_path; the node sets the rest",
                )
            return args

    def build(self, C: int, H: int, W: int) -> None:
        """Create the model for images of C channels and H x W pixels."""
        self.model_args = self._arguments(C, H, W)
        try:
            self.model: nn.Module = timm.create_model(self.config.arch, **self.model_args)
        except TypeError as failure:
            raise self._refused(failure) from failure
        self._whole_patches(H, W)
        self._layout = str(getattr(self.model, "output_fmt", "NCHW"))

    def _arguments(self, channels: int, height: int, width: int) -> dict[str, Any]:
        config = self.config
        arguments: dict[str, Any] = {"num_classes": 0, "in_chans": channels, **config.args}
        if config.readout != "own":
            arguments["global_pool"] = _POOLING[config.readout]
        if config.drop_path:
            arguments["drop_path_rate"] = config.drop_path
        wanted = config.image_size
        if isinstance(wanted, int) and (height, width) != (wanted, wanted):
            raise SettingError(
                f"the model is built for images of {wanted} x {wanted}",
                path=("image_size",),
                expected=f"views of {wanted} x {wanted}",
                got=f"{height} x {width}",
                help="make views of that size, or set image_size: dynamic",
            )
        if wanted == "dynamic":
            arguments["dynamic_img_size"] = True
        elif _has_fixed_size(config.arch):
            arguments["img_size"] = (height, width)
        return arguments

    def _whole_patches(self, height: int, width: int) -> None:
        """Refuse sizes at which timm would leave out the last pixels without a word."""
        embed = getattr(self.model, "patch_embed", None)
        if not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad:
            return
        high, wide = embed.patch_size
        if height % high or width % wide:
            raise SettingError(
                f"{self.config.arch} cuts images into patches of {high} x {wide}",
                path=("arch",),
                expected=f"sides that are multiples of {high}",
                got=f"images of {height} x {width}",
                help="make views of such a size",
            )

    def _refused(self, failure: TypeError) -> SettingError:
        """The setting behind an argument that this model does not take."""
        text = str(failure)
        if "dynamic_img_size" in text:
            return SettingError(
                f"{self.config.arch} takes images of any size as it is",
                path=("image_size",),
                help="drop `image_size`",
            )
        return SettingError(
            f"{self.config.arch} refuses an argument: {text}",
            path=("args",) if self.config.args else ("arch",),
        )

    def forward(self, image: Tensor) -> Any:
        """Embedding and tokens of a batch of images."""
        model: Any = self.model
        features: Tensor = model.forward_features(image)
        embedding: Tensor = model.forward_head(features, pre_logits=True)
        return self.Outputs(embedding, self._tokens(features))

    def _tokens(self, features: Tensor) -> Tensor:
        if features.dim() == 3:
            return features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if self._layout == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)


def _has_fixed_size(arch: str) -> bool:
    """Whether the model has position embeddings for one image size."""
    config = timm.get_pretrained_cfg(arch)
    return bool(config is not None and config.fixed_input_size)
