"""Crops of several sizes: whose draws they have, what a group says, evaluation, and mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from sslgraph.describe.nodes import node_page
from sslgraph.loading import load
from sslgraph.nodes.base import Context
from sslgraph.nodes.crops import MultiCrop
from sslgraph.plan import make_plan
from tests.methods.simclr_by_hand import Sample, jitter, mix, text_key

GROUPS: dict[str, Any] = {
    "global": {"views": 2, "size": 24, "scale": [0.4, 1.0], "interpolation": "bicubic"},
    "local": {"views": 3, "size": 8, "scale": [0.05, 0.4]},
}
NODE = "crops"


def made(images: Tensor, *, index: Tensor | None = None, **settings: Any) -> dict[str, Tensor]:
    """The views of each group, in training."""
    node = multi_crop(**settings)
    position = torch.arange(images.shape[0]) if index is None else index
    parts: Any = node(images[None], position[None])
    parts = (parts,) if isinstance(parts, Tensor) else parts
    return dict(zip(node.declaration.outputs, parts, strict=True))


def multi_crop(seed: int = 5, **settings: Any) -> MultiCrop:
    settings.setdefault("crops", GROUPS)
    axes = {"C": 3, "H": 28, "W": 28}
    return MultiCrop(axes=axes, context=Context(NODE, seed), **settings)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Six smooth coloured pictures."""
    wave = torch.linspace(0, 6, 28)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(6 * 3).view(6, 3, 1, 1)
    return (x * 0.7 + y * (colours % 5) / 3 + colours).sin() / 2 + 0.5


def by_hand(image: Tensor, draw: Sample, low: float, high: float, size: int, mode: str) -> Tensor:
    """One crop of a square image: the box of the formula, scaled by torch as PIL would."""
    side = image.shape[-1]
    for lane in range(10):
        area = draw.uniform("crop/0/area", lane=lane).double() * (high - low) + low
        low_ratio, high_ratio = (torch.tensor(r).double().log() for r in (3 / 4, 4 / 3))
        ratio = draw.uniform("crop/0/ratio", lane=lane).double() * (high_ratio - low_ratio)
        ratio = (ratio + low_ratio).exp()
        w = int((area * side * side * ratio).sqrt().round())
        h = int((area * side * side / ratio).sqrt().round())
        if 0 < w <= side and 0 < h <= side:
            top = draw.integer("crop/0/top", 0, side - h)
            left = draw.integer("crop/0/left", 0, side - w)
            part = image[None, :, top : top + h, left : left + w]
            view = functional.interpolate(part, (size, size), mode=mode, antialias=True)
            return view[0].clamp(0, 1)
    raise AssertionError("no box fits")


def test_views_are_those_of_the_documented_formula(images: Tensor) -> None:
    found = made(images)
    for name, mode in (("global", "bicubic"), ("local", "bilinear")):
        group = GROUPS[name]
        low, high = group["scale"]
        for view in range(group["views"]):
            for place, image in enumerate(images):
                draw = Sample(mix(5, text_key(f"{NODE}.{name}"), view, place))
                expected = by_hand(image, draw, low, high, group["size"], mode)
                torch.testing.assert_close(found[name][view, place], expected, rtol=0, atol=1e-5)


def test_every_view_of_every_group_differs(images: Tensor) -> None:
    same = {"views": 2, "size": 12, "scale": [0.2, 1.0]}
    found = made(images, crops={"one": same, "two": same})
    every = torch.cat([found["one"], found["two"]])
    for first in range(4):
        for second in range(first):
            assert (every[first] - every[second]).abs().mean() > 0.01


def test_a_group_keeps_its_views_whatever_stands_beside_it(images: Tensor) -> None:
    alone = made(images, crops={"local": GROUPS["local"]})["local"]
    more = {**GROUPS, "local": {**GROUPS["local"], "views": 5}}
    assert torch.equal(alone, made(images)["local"])
    assert torch.equal(alone, made(images, crops=more)["local"][:3])


def test_a_sample_keeps_its_views_in_another_batch(images: Tensor) -> None:
    whole = made(images)
    part = made(images[[4, 2]], index=torch.tensor([4, 2]))
    for name, views in whole.items():
        assert torch.equal(views[:, [4, 2]], part[name])


def test_values_by_group_and_by_view(images: Tensor) -> None:
    """invert: view 0 of global always, view 1 never, local always."""
    plain = made(images)
    chance = {"global": {"each": [1, 0]}, "local": 1}
    found = made(images, ops=[{"invert": chance}])
    assert torch.equal(found["global"][0], 1 - plain["global"][0])
    assert torch.equal(found["global"][1], plain["global"][1])
    assert torch.equal(found["local"], 1 - plain["local"])


def test_a_groups_own_list_replaces_the_common_one(images: Tensor) -> None:
    own = {**GROUPS["local"], "ops": [{"gray": 1}]}
    found = made(images, crops={**GROUPS, "local": own}, ops=[{"invert": 1}])
    plain = made(images)
    assert torch.equal(found["global"], 1 - plain["global"])
    assert torch.equal(found["local"][:, :, 0], found["local"][:, :, 1])


def test_a_group_of_another_has_its_boxes_and_flips(images: Tensor) -> None:
    """At double size, averaged in pairs of pixels: the same views, but for their colours."""
    crops = {
        "global": {"views": 2, "size": 12, "scale": [0.4, 0.9], "antialias": False},
        "sharp": {"of": "global", "size": 24, "antialias": False, "ops": [{"invert": 1}]},
    }
    found = made(images, crops=crops, ops=[{"flip": 0.5}, {"gray": 1}])
    smaller = functional.avg_pool2d(1 - found["sharp"].flatten(0, 1), 2).unflatten(0, (2, 6))
    smaller = torch.stack([_gray(view) for view in smaller])
    assert (smaller - found["global"]).abs().mean() < 0.01
    assert (smaller.flip(-1) - found["global"]).abs().mean() > 0.05


def test_a_group_of_another_keeps_the_order_of_a_common_list(images: Tensor) -> None:
    """Of BEiT's: the same colours before the same box, and statistics of each group's own."""
    crops = {"model": {"size": 24}, "tokens": {"of": "model", "size": 12}}
    plain = {"mean": [-0.125] * 3, "std": [1.25] * 3}
    ops = [
        {"jitter": [0.4, 0.4, 0.4, 0.0]},
        {"flip": 0.5},
        {"crop": [0.3, 1.0]},
        {"normalize": {"model": "half", "tokens": plain}},
    ]
    found = made(images, crops=crops, ops=ops)
    for place, image in enumerate(images):
        draw = Sample(mix(5, text_key("crops.model"), 0, place))
        whole = jitter(image, draw, (0.4, 0.4, 0.4, 0.0))
        if draw.uniform("flip/0/hit") < 0.5:
            whole = whole.flip(-1)
        model, tokens = (by_hand(whole, draw, 0.3, 1.0, size, "bilinear") for size in (24, 12))
        torch.testing.assert_close(found["model"][0, place], model * 2 - 1, rtol=0, atol=1e-5)
        expected = tokens * 0.8 + 0.1
        torch.testing.assert_close(found["tokens"][0, place], expected, rtol=0, atol=1e-5)


def _gray(image: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (image * weights).sum(1, keepdim=True).expand_as(image)


def test_identities_and_ports() -> None:
    crops = {**GROUPS, "sharp": {"of": "global", "size": 32}}
    nodes = {
        "crops": {"use": "multi_crop", "in": "batch.image", "crops": crops},
        "encoder": {"use": "encoder", "in": "crops.global", "arch": "resnet10t"},
        "loss": {"use": "nt_xent", "in": "encoder.embedding"},
    }
    data = {"sslgraph": 1, "name": "many", "nodes": nodes, "minimize": {"loss": 1}}
    plan = make_plan(load(data))
    assert plan.identities["crops", "global"] == ("crops.global.0", "crops.global.1")
    assert plan.identities["crops", "local"] == tuple(f"crops.local.{i}" for i in range(3))
    assert plan.identities["crops", "sharp"] == plan.identities["crops", "global"]
    assert plan.largest_view() == 32
    declared = plan.step("crops").declaration
    assert str(declared.outputs["local"]) == "image[3 B C 8 8]"
    assert not declared.main


def test_one_group_is_the_main_output(images: Tensor) -> None:
    node = multi_crop(crops={"local": GROUPS["local"]})
    assert node.declaration.main == "local"
    assert node(images[None], torch.arange(6)[None]).shape == (3, 6, 3, 8, 8)


def test_evaluation_gives_the_clean_view_of_the_largest_group(images: Tensor) -> None:
    crops = {"local": GROUPS["local"], "global": GROUPS["global"]}
    crops["sharp"] = {"of": "global", "size": 28, "ops": [{"normalize": "half"}]}
    statistics = {"mean": [0.5] * 3, "std": [0.25] * 3}
    node = multi_crop(crops=crops, ops=[{"flip": 1.0}, {"normalize": statistics}]).eval()
    local, large, sharp = node(images[None], torch.arange(6)[None])
    assert large.shape == (1, 6, 3, 24, 24)
    assert local is large
    centre = images[:, :, 2:26, 2:26]  # 24 of 28 pixels are 7/8 of the side
    torch.testing.assert_close(large[0], (centre - 0.5) / 0.25, rtol=0, atol=0.25)
    assert sharp.shape == (1, 6, 3, 28, 28)
    torch.testing.assert_close(sharp[0], (images - 0.5) / 0.5)


def problems(crops: Any, ops: Any = ()) -> list[tuple[str, str]]:
    """Place and words of what is wrong."""
    with pytest.raises(ValidationError) as caught:
        MultiCrop.Config.model_validate({"crops": crops, "ops": list(ops)})
    return [(".".join(map(str, e["loc"])), e["msg"]) for e in caught.value.errors()]


BLUR: dict[str, Any] = {"blur": [0.1, 2.0]}
ONE = {"size": 8}


@pytest.mark.parametrize(
    ("crops", "ops", "expected"),
    [
        (
            GROUPS,
            [{**BLUR, "p": {"gobal": 1, "local": 0.5}}],
            [("ops.0.p.gobal", "there is no group 'gobal' here")],
        ),
        (
            GROUPS,
            [{"flip": 0.5}, {**BLUR, "p": {"global": {"each": [1, 0, 1]}, "local": 0}}],
            [("ops.1.p.global.each", "3 values for 2 views of 'global'")],
        ),
        (
            GROUPS,
            [{**BLUR, "p": {"each": [1, 0]}}],
            [("ops.0.p.each", "2 values for 3 views of 'local'")],
        ),
        (GROUPS, [{**BLUR, "p": {"local": 0.5}}], [("ops.0.p", "no value for 'global'")]),
        (
            GROUPS,
            [{**BLUR, "p": {"global": {"each": [0.5, 2]}, "local": 0}}],
            [("ops.0.p.global.each.1", "Input should be less than or equal to 1")],
        ),
        (GROUPS, [{"flop": 0.5}], [("ops.0", "unknown operation 'flop'")]),
        (
            GROUPS,
            [{"normalize": "half"}, {"gray": 0.2}],
            [("ops", "operation 1 (gray) stands after normalize")],
        ),
        ({"Global": ONE}, [], [("crops.Global", "a group can't be called 'Global'")]),
        ({"each": ONE}, [], [("crops.each", "a group can't be called 'each'")]),
        ({}, [], [("crops", "Dictionary should have at least 1 item after validation, not 0")]),
        (
            {"a": ONE, "b": {"of": "c", "size": 4}},
            [],
            [("crops.b.of", "there is no group 'c' with boxes of its own")],
        ),
        (
            {"a": ONE, "b": {"of": "a", "size": 4, "views": 2}},
            [],
            [("crops.b", "'views' is that of 'a'")],
        ),
        (
            {"a": ONE, "b": {"of": "a", "size": 4, "ops": [{"flip": 0.5}]}},
            [],
            [("crops.b", "'flip' is that of 'a'")],
        ),
        (
            {"a": {"size": 8, "views": 2, "ops": [{"gray": {"each": [1, 0, 1]}}]}},
            [],
            [("crops.a.ops.0", "'each' of 'gray' gives 3 values for 2 views")],
        ),
        (
            GROUPS,
            [{"flip": 0.5}, {"crop": [0.1, 1]}],
            [("ops", "operation 1 (crop) crops 'global' a second time")],
        ),
        (
            {"a": {"size": 8, "scale": [0.9, 0.1]}},
            [],
            [("crops.a.scale", "the range [0.9, 0.1] is empty")],
        ),
    ],
)
def test_mistakes_are_told_at_their_place(
    crops: Any, ops: Any, expected: list[tuple[str, str]]
) -> None:
    assert problems(crops, ops) == expected


def test_operations_that_need_colours_are_told_at_their_lists() -> None:
    crops = {"a": {"size": 8}, "b": {"size": 8, "ops": [{"gray": 1}]}, "c": {"size": 4}}
    ops = [{"jitter": [0.1, 0.1, 0.1, 0.1]}, {"normalize": {"a": "half", "c": "clip"}}]
    with pytest.raises(ValueError, match="'jitter' is not for images of 1 channels") as caught:
        MultiCrop(axes={"C": 1, "H": 9, "W": 9}, crops=crops, ops=ops)
    fault: Any = caught.value
    places = [fault.path, *(more.path for more in fault.more)]
    assert places == [("ops", 0), ("ops", 1), ("crops", "b", "ops", 0)]


def test_the_page_shows_the_ports_of_its_sample_and_the_settings_of_a_group() -> None:
    page = node_page("multi_crop")
    assert [(port.name, port.axes) for port in page.outputs] == [
        ("global", "2 B C 24 24"),
        ("local", "3 B C 12 12"),
    ]
    assert {key.name for key in page.groups["crops"]} >= {"views", "size", "scale", "of", "ops"}
    assert all(key.meaning for key in page.groups["crops"])
