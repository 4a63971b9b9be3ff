"""Crops of several sizes: groups of views, each group a port of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from sslgraph.hashing import text_key
from sslgraph.nodes.base import Node
from sslgraph.nodes.crop_groups import (
    CropGroup,
    lists_of,
    refuse_second_crop,
    see_groups,
    sharing,
    views_of,
)
from sslgraph.nodes.ops import OpSetting, evaluate_ops
from sslgraph.nodes.ops.groups import GroupedOp, ops_of_groups
from sslgraph.nodes.views import random_views, refuse_order, see_channels
from sslgraph.ports import Identities, In, Member, Out, Ports


class MultiCrop(Node, use="multi_crop"):
    """Random views of several sizes, one output a group (SwAV, section 3.2).

    Each group of `crops` is an output, such as `crops.global` and `crops.local`. Every sample, view
    and group has draws of its own, a function of seed, node, group, view and sample position. A
    group `of:` another shows the same parts of the images, mirrored alike, at another size; there
    operations of the same name draw alike too, and a view is the same view to `pairs`.

    In evaluation the groups with boxes of their own all give the one view of the largest of them:
    resized, the centre, normalised. A group `of:` another gives its own.

    Shapes: image 1 B C H W, uint8 or float in [0, 1] -> for each group views B C size size, float.
    """

    image = In("image", "1 B C H W")
    position = In("index", "1 B", default="batch.index")
    draws = True
    sample = {
        "crops": {
            "global": {"views": 2, "size": 24, "scale": [0.4, 1.0]},
            "local": {"views": 3, "size": 12, "scale": [0.05, 0.4]},
        },
        "ops": [{"flip": 0.5}],
    }
    sample_axes = {"V": 1, "H": 28, "W": 28}

    class Config(Node.Config):
        """Settings.

        Attributes:
            crops: Groups by name, such as `{local: {views: 8, size: 96, scale: [0.05, 0.4]}}`.
            ops: Operations of every group in the order in which they are applied. In the place of a
                value, `{global: ..., local: ...}` gives one value a group and `{each: [...]}` one
                value a view.
        """

        crops: Annotated[dict[str, CropGroup], Field(min_length=1)]
        ops: list[GroupedOp] = []

        @field_validator("crops")
        @classmethod
        def _known(cls, crops: dict[str, CropGroup]) -> dict[str, CropGroup]:
            see_groups(crops)
            return crops

        @field_validator("ops")
        @classmethod
        def _sound(cls, ops: list[GroupedOp], info: ValidationInfo) -> list[GroupedOp]:
            refuse_order(ops)
            if "crops" in info.data:
                crops = info.data["crops"]
                ops_of_groups(ops, sharing(crops))
                refuse_second_crop(ops, {name: crops[name] for name in sharing(crops)})
            return ops

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """An output for each group."""
        outputs = {}
        for name, group in config.crops.items():
            views = views_of(config.crops, group)
            outputs[name] = Out("image", f"{views} B C {group.size} {group.size}")
            outputs[name].name = name
        return Ports(cls.declaration.inputs, outputs)

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """`node.group.i`; of a group `of:` another, those of the other one."""
        return {
            key: tuple(
                f"{name}.{group.of or key}.{view}" for view in range(views_of(config.crops, group))
            )
            for key, group in config.crops.items()
        }

    def build(self, C: int, H: int, W: int) -> None:
        """See that the operations suit images of C channels."""
        crops, common = self.config.crops, self.config.ops
        self.lists = lists_of(crops, common)
        written: list[tuple[tuple[str, ...], list[OpSetting]]] = [
            *((("ops",), ops) for ops in ops_of_groups(common, sharing(crops)).values()),
            *((("crops", name, "ops"), group.ops) for name, group in crops.items() if group.ops),
        ]
        see_channels(written, C)

    def forward(self, image: Tensor, position: Tensor) -> Any:
        """The views of each group."""
        crops, made = self.config.crops, []
        for name, group in crops.items():
            salt = text_key(f"{self.context.name}.{group.of or name}")
            ops, views = self.lists[name], views_of(crops, group)
            made.append(
                random_views(ops, image[0], position[0], group.size, views, self.context.seed, salt)
            )
        return made[0] if len(made) == 1 else self.Outputs(*made)

    def evaluate(self, image: Tensor, position: Tensor) -> Any:
        """One deterministic view a group."""
        crops = self.config.crops
        largest = max((name for name in crops if not crops[name].of), key=lambda n: crops[n].size)
        clean = {
            name: evaluate_ops(self.lists[name], image[0], group.size).unsqueeze(0)
            for name, group in crops.items()
            if group.of or name == largest
        }
        made = [clean.get(name, clean[largest]) for name in crops]
        return made[0] if len(made) == 1 else self.Outputs(*made)

    def sizes(self, *shapes: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...]:
        """Shapes of the views of each group."""
        assert shapes[0] is not None
        _, batch, channels, _, _ = shapes[0]
        crops = self.config.crops
        return tuple(
            (views_of(crops, group), batch, channels, group.size, group.size)
            for group in crops.values()
        )

    @classmethod
    def largest_crop(cls, config: Any) -> int | None:
        """The side of the largest view."""
        sizes: list[int] = [group.size for group in config.crops.values()]
        return max(sizes)
