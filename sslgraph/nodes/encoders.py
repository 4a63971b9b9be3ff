"""Encoders: any timm model as a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from sslgraph.errors import did_you_mean
from sslgraph.nodes.backbones import (
    Need,
    blocks_exist,
    flatten_paths,
    freeze,
    keep_paths,
    leave_out_norm,
    suited,
)
from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.places import cell, spread, visible_places
from sslgraph.nodes.stems import shrink_stem
from sslgraph.nodes.transformers import (
    TOKEN_STD,
    draw_cut_normal,
    fix_positions,
    start_beit,
    start_xavier,
    taken,
)
from sslgraph.ports import In, Member, Out, Ports
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
    map, a row of D numbers a place, class and register tokens left out; `sequence` has these too,
    in front.

    With `masked: drop` hidden places never enter the blocks, so `tokens` are those of the visible
    places in raster order (MAE, section 3); positions are added before. It is for plain vision
    transformers. With `masked: token` one learned vector stands in for the patch embeddings of
    hidden places, before positions are added (BEiT, section 2.3); BEiT's and Swin's models take it
    too, and a place of the mask may cover several patches, such as 32 x 32 pixels where Swin cuts
    4 x 4 (SimMIM, section 3.2). In evaluation masks hide nothing.

    `taps: [9]` adds an output `tap9`: what leaves block 9, the first being 1, after its residual
    sums and before any final norm, class and register tokens left out.

    Shapes: image B C H W, mask B G of all places -> embedding B D, tokens B N D, sequence B S D,
    tap<l> B N D.
    """

    image = In("image", "B C H W")
    mask = In("mask", "B G", optional=True)
    embedding = Out("embedding", "B D")
    tokens = Out("tokens", "B N D")
    sequence = Out("tokens", "B S D")
    sample = {"arch": "vit_tiny_patch16_224", "masked": "token", "args": {"depth": 2}}
    sample_axes = {"G": 4}

    class Config(Node.Config):
        """Settings.

        Attributes:
            arch: Name of a timm model, such as `resnet50` or `vit_small_patch16_224`.
            readout: What `embedding` is: the model's own choice, its class token, or the mean
                token.
            image_size: A size in pixels that the model is built for and others are refused;
                `dynamic` interpolates position embeddings; the size of the first input if absent.
            masked: What becomes of the places that a mask hides.
            position: The model's own, or `sincos`, a fixed table of sines and cosines (MAE); for
                plain vision transformers.
            init: First weights: timm's own; `xavier` for all linear layers and the projection of
                patches, with biases of zero and class and register tokens from N(0, 0.02);
                `xavier_qkv`, where query, key and value count as a layer each and tokens come from
                N(0, 1e-6) (MoCo v3); or `beit`, all from N(0, 0.02) cut off at 0.02, the last
                layers of block l divided by the root of 2 l.
            mask_token: First value of the vector that stands in for hidden places: from N(0, 0.02),
                cut off with `init: beit`; or `zeros` (the released code of iBOT and of DINOv2).
            stem: First layers: the model's own, or `small`, one 3 x 3 convolution of stride 1 and
                no pool, for residual networks on images of 32 pixels.
            norm: `none` leaves out the norm behind the last block, for a norm of the graph's own.
            taps: Blocks whose outputs are outputs of the node, the first being 1.
            freeze: Parts of the timm model that keep their first weights, such as `patch_embed`
                (MoCo v3, section 4.3).
            drop_path: Highest rate of stochastic depth; none unless given, whatever timm has.
            drop_path_shape: Whether rates grow from 0 to it along the blocks, or all are it.
            attention_drop: Rate of dropout on the weights of attention, of vision transformers.
            args: Further arguments of `timm.create_model`.
            batch_norm: Whose samples share statistics; the run's rule if absent.
        """

        arch: str
        readout: Readout = "own"
        image_size: PositiveInt | Literal["dynamic"] | None = None
        masked: Literal["drop", "token"] | None = None
        position: Literal["own", "sincos"] = "own"
        init: Literal["own", "xavier", "xavier_qkv", "beit"] = "own"
        mask_token: Literal["own", "zeros"] = "own"
        stem: Literal["own", "small"] = "own"
        norm: Literal["own", "none"] = "own"
        taps: list[PositiveInt] = []
        freeze: list[str] = []
        drop_path: float = Field(default=0.0, ge=0, lt=1)
        drop_path_shape: Literal["linear", "flat"] = "linear"
        attention_drop: float = Field(default=0.0, ge=0, lt=1)
        args: dict[str, Any] = {}
        batch_norm: BatchNormSpec | None = None

        @field_validator("arch")
        @classmethod
        def _known(cls, arch: str) -> str:
            if not timm.is_model(arch):
                hint = did_you_mean(arch, timm.list_models(), show="timm models")
                raise fault(f"timm has no model '{arch}'", help=hint)
            return arch

        @field_validator("taps")
        @classmethod
        def _once(cls, taps: list[int]) -> list[int]:
            if len(set(taps)) < len(taps):
                raise fault("a block is tapped once", expected="numbers that differ")
            return taps

        @field_validator("mask_token")
        @classmethod
        def _has_token(cls, start: str, info: ValidationInfo) -> str:
            if start == "zeros" and info.data.get("masked", "token") != "token":
                raise fault(
                    "'mask_token: zeros' is for an encoder that has such a token",
                    expected="'masked: token' beside it",
                    help="add it, or delete 'mask_token'",
                )
            return start

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

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """Those of every encoder, and an output for each tap."""
        outputs = dict(cls.declaration.outputs)
        for block in config.taps:
            outputs[f"tap{block}"] = tap = Out("tokens", "B N D")
            tap.name = f"tap{block}"
        return Ports(cls.declaration.inputs, outputs)

    @classmethod
    def even(cls, config: Any) -> Mapping[str, str]:
        """To drop places takes masks that hide as many in every image."""
        return {"mask": "masked: token"} if config.masked == "drop" else {}

    def build(self, C: int, H: int, W: int) -> None:
        """Create the model for images of C channels and H x W pixels."""
        config = self.config
        self.model_args = self._arguments(C, H, W)
        try:
            self.model: nn.Module = timm.create_model(config.arch, **self.model_args)
        except (TypeError, AssertionError) as failure:
            raise self._refused(failure) from failure
        self._size = (H, W) if "img_size" in self.model_args else None
        if config.image_size == "dynamic":
            self._size = None
        self._whole_patches(H, W)
        self._layout = str(getattr(self.model, "output_fmt", "NCHW"))
        self._backbone = suited(self.model, config.arch, self._wishes())
        blocks_exist(self.model, config.arch, config.taps)
        self._start()

    def _wishes(self) -> dict[str, Need]:
        """Settings that only some classes of models have, with what such a class has."""
        config = self.config
        wishes: dict[str, Need] = {}
        if config.masked is not None:
            wishes[f"masked: {config.masked}"] = "drops" if config.masked == "drop" else "parts"
        if config.position == "sincos":
            wishes["position: sincos"] = "fixes"
        if config.init == "beit":
            wishes["init: beit"] = "lists"
        if config.taps:
            wishes["taps"] = "lists"
        if config.norm == "none":
            wishes["norm: none"] = "parts"
        return wishes

    def _start(self) -> None:
        """First weights, and what is fixed or left out."""
        config, model = self.config, self.model
        if config.stem == "small":
            shrink_stem(model, config.arch)
        self._set_paths()
        if config.position == "sincos":
            fix_positions(model)
        if config.init in ("xavier", "xavier_qkv"):
            start_xavier(model, apart=config.init == "xavier_qkv")
        elif config.init == "beit":
            start_beit(model)
        if config.masked == "token":
            width = int(model.get_submodule("patch_embed").get_parameter("proj.weight").shape[0])
            self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=TOKEN_STD))
            if config.mask_token == "zeros":
                nn.init.zeros_(self.mask_token)
            elif config.init == "beit":
                draw_cut_normal(self.mask_token)
        if config.norm == "none":
            leave_out_norm(model, self.model_args)
        for place, name in enumerate(config.freeze):
            freeze(model, name, place)

    def _set_paths(self) -> None:
        """Stochastic depth where it is asked for, and no other."""
        rate = self.config.drop_path
        if not rate and "drop_path_rate" not in self.config.args:
            keep_paths(self.model, self.model_args)
        if rate and self.config.drop_path_shape == "flat":
            flatten_paths(self.model, rate)

    def fits(self, axes: Mapping[str, int]) -> None:
        """See that images and masks have the sizes that the model was built for."""
        height, width = axes["H"], axes["W"]
        if self._size is not None and self._size != (height, width):
            raise _other_size(self._size, height, width, self.context.name)
        self._whole_patches(height, width)
        if "G" not in axes:
            return
        if self.config.masked is None:
            raise SettingError(
                "a mask comes in, and no setting says what becomes of hidden places",
                path=("masked",),
                expected="'masked: drop' or 'masked: token'",
                help="add one, or unplug the mask",
            )
        model: Any = self.model
        high, wide = model.patch_embed.patch_size
        rows, columns = height // high, width // wide
        side = cell(rows, columns, axes["G"])
        if side == 1 or (side and self.config.masked == "token"):
            return
        raise SettingError(
            f"the mask has {axes['G']} places where the model has {rows * columns}",
            path=("in",),
            expected=f"a mask of {rows} x {columns} places, for patches of {high} x {wide}"
            + (", or of a coarser grid" if self.config.masked == "token" else ""),
            help=f"set 'patch: {high}' in the node that makes the mask",
        )

    def _arguments(self, channels: int, height: int, width: int) -> dict[str, Any]:
        config = self.config
        arguments: dict[str, Any] = {"num_classes": 0, "in_chans": channels, **config.args}
        if config.readout != "own":
            arguments["global_pool"] = _POOLING[config.readout]
        if config.drop_path:
            arguments["drop_path_rate"] = config.drop_path
        if config.attention_drop:
            arguments["attn_drop_rate"] = config.attention_drop
        wanted = config.image_size
        if isinstance(wanted, int) and (height, width) != (wanted, wanted):
            raise _other_size((wanted, wanted), height, width, self.context.name)
        if wanted == "dynamic":
            arguments["dynamic_img_size"] = True
            if config.position == "sincos":
                arguments["img_size"] = (height, width)
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

    def _refused(self, failure: Exception) -> SettingError:
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

    def forward(self, image: Tensor, mask: Tensor | None) -> Any:
        """Embedding, tokens and sequence of a batch of images."""
        return self._outputs(image, mask)

    def evaluate(self, image: Tensor, mask: Tensor | None) -> Any:
        """The same with nothing hidden."""
        return self._outputs(image, None)

    def _outputs(self, image: Tensor, mask: Tensor | None) -> Any:
        model: Any = self.model
        features, taps = self._features(image, mask)
        embedding: Tensor = model.forward_head(features, pre_logits=True)
        tokens = self._tokens(features)
        sequence = features if features.dim() == 3 else tokens
        return self.Outputs(embedding, tokens, sequence, *taps)

    def _features(self, image: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """What the final norm gives, and the taps."""
        model: Any = self.model
        config = self.config
        whole = mask is None and config.position == "own" and not config.taps
        if self._backbone is None or whole:
            return model.forward_features(image), []
        x = model.patch_embed(image)  # B N D, or B rows columns D where sizes are free
        if mask is not None and config.masked == "token":
            high, wide = model.patch_embed.patch_size
            hidden = spread(mask, image.shape[2] // high, image.shape[3] // wide)
            token = self.mask_token.flatten().to(x.dtype)
            x = torch.where(hidden.reshape(*x.shape[:-1], 1), token, x)
        x = self._backbone.placed(model, x, sincos=config.position == "sincos")
        if mask is not None and config.masked == "drop":
            x = taken(x, visible_places(self, "mask", mask), after=model.num_prefix_tokens)
        x, taps = self._backbone.run(model, x, config.taps)
        return model.norm(x), [self._tokens(taps[block]) for block in config.taps]

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


def _other_size(built: tuple[int, int], height: int, width: int, name: str) -> SettingError:
    size = f"{built[0]} x {built[1]}"
    return SettingError(
        f"the model is built for images of {size}",
        path=("image_size",),
        expected=f"views of {size}",
        got=f"{height} x {width}",
        help=f"make views of that size, or set 'image_size: dynamic' in {name}",
    )
