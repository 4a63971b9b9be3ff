"""Pixels: each operation against torchvision's definition with the same parameters."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops import TABLE, Step, parse_ops, sample_ops, to_float

B, H, W = 8, 40, 48


def pictures(batch: int = B, height: int = H, width: int = W, channels: int = 3) -> Tensor:
    """Smooth colours, a hard edge and some texture: uint8 images with structure."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phase = torch.arange(batch * channels).reshape(batch, channels, 1, 1) * 1.7
    waves = torch.sin(x / 5 + phase) + torch.cos(y / 4 - phase * 1.3) + 0.3 * torch.sin(x * 1.9)
    image = (waves / 4.6 + 0.5) * 255
    image[:, :, height // 3 : height // 2, width // 4 : width // 2] = 255 * (phase.sin() > 0)
    return image.clamp(0, 255).to(torch.uint8)


def draws(batch: int = B, *, start: int = 0, view: int = 0) -> Draws:
    return Draws(11, view, torch.arange(start, start + batch), 5)


def steps_of(entry: dict[str, Any], *, image: Tensor | None = None, size: int = H) -> Step:
    """The one step of a list of one operation, for `pictures()`."""
    shape = pictures().shape if image is None else image.shape
    made = sample_ops(parse_ops([entry]), (shape[1], shape[2], shape[3]), size, draws(shape[0]), 0)
    return made[0]


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def each(image: Tensor, work: Callable[[Tensor, int], Tensor]) -> Tensor:
    """One image at a time, as torchvision's transforms work."""
    return torch.cat([work(image[i : i + 1], i) for i in range(len(image))])


# -- crops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "how", "antialias", "atol"),
    [
        ({}, InterpolationMode.BILINEAR, True, 2e-6),
        ({"interpolation": "bicubic"}, InterpolationMode.BICUBIC, True, 2e-5),
        ({"antialias": False}, InterpolationMode.BILINEAR, False, 1e-5),
    ],
)
@pytest.mark.parametrize("size", [20, 64])
def test_crop_is_torchvisions(
    keys: dict[str, Any], how: InterpolationMode, antialias: bool, atol: float, size: int
) -> None:
    image = to_float(pictures())
    step = steps_of({"crop": [0.1, 1.0], **keys}, size=size)
    ours = step.apply(image.clone(), size)
    boxes = step.params["box"].tolist()
    theirs = each(
        image, lambda x, i: tv.resized_crop(x, *boxes[i], [size, size], how, antialias=antialias)
    )
    close(ours, theirs.clamp(0, 1), atol)


@pytest.mark.parametrize("size", [20, 64])
def test_lanczos_is_pillows(size: int) -> None:
    """On channels of float32; Pillow's own are without rounding then."""
    image = to_float(pictures())
    step = steps_of({"crop": [0.1, 1.0], "interpolation": "lanczos"}, size=size)
    for view, x, (top, left, height, width) in zip(
        step.apply(image.clone(), size), image, step.params["box"].tolist(), strict=True
    ):
        part = x[:, top : top + height, left : left + width].numpy()
        planes = [
            Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS) for plane in part
        ]
        theirs = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
        close(view, theirs.clamp(0, 1), 2e-5)


def test_lanczos_is_antialiased() -> None:
    with pytest.raises(ValueError, match="averages over the pixels that a smaller view leaves out"):
        steps_of({"crop": [0.1, 1.0], "interpolation": "lanczos", "antialias": False}, size=20)


def test_bicubic_without_antialias_is_kornias_inside_the_box() -> None:
    image = to_float(pictures())
    entry = {"crop": [0.1, 0.5], "interpolation": "bicubic", "antialias": False}
    step = steps_of(entry, size=64)
    boxes = step.params["box"].tolist()
    theirs = each(
        image,
        lambda x, i: tv.resized_crop(
            x, *boxes[i], [64, 64], InterpolationMode.BICUBIC, antialias=False
        ),
    )
    inner = (..., slice(10, -10), slice(10, -10))  # two source pixels from the box's edges
    close(step.apply(image.clone(), 64)[inner], theirs.clamp(0, 1)[inner], 2e-5)


@pytest.mark.parametrize(
    "keys",
    [*({"interpolation": how} for how in ("bilinear", "bicubic", "lanczos")), {"antialias": False}],
)
@pytest.mark.parametrize(("height", "size"), [(8, 8), (40, 24), (40, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_images_crop_is_the_same_to_the_bit_alone_and_in_a_batch(
    keys: dict[str, Any], height: int, size: int, channels: int
) -> None:
    """Matrix products, of which MKL has other ones for 8 x 8 pixels by the batch, were not."""
    image = to_float(pictures(height=height, width=height, channels=channels))
    step = steps_of({"crop": [0.1, 1.0], **keys}, image=image, size=size)
    whole = step.apply(image.clone(), size)
    ops = parse_ops([{"crop": [0.1, 1.0], **keys}])
    for first, count in ((0, 1), (5, 1), (3, 2), (1, 7)):
        own = draws(count, start=first)
        shape = (channels, height, height)
        part = sample_ops(ops, shape, size, own, 0)[0]
        rows = slice(first, first + count)
        assert torch.equal(part.apply(image[rows].clone(), size), whole[rows])


def boxes_of_torchvision(n: int, image: Tensor, scale: list[float], ratio: list[float]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(n)])


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (96, 96, [0.08, 1.0], [3 / 4, 4 / 3]),
        (60, 200, [0.2, 1.0], [3 / 4, 4 / 3]),  # tall boxes fail; about a fifth falls back
        (32, 32, [0.05, 0.14], [0.5, 2.0]),
    ],
)
def test_boxes_are_distributed_as_torchvisions(
    height: int, width: int, scale: list[float], ratio: list[float]
) -> None:
    n = 5000
    ops = parse_ops([{"crop": scale, "ratio": ratio}])
    ours = sample_ops(ops, (3, height, width), 64, draws(n), 0)[0].params["box"].numpy()
    theirs = boxes_of_torchvision(n, torch.zeros(3, height, width), scale, ratio)
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width
    assert ours.min() >= 0
    for a, b in (
        *((ours[:, k], theirs[:, k]) for k in range(4)),
        (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),
        (ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]),
        (ours[:, 0] - ours[:, 1], theirs[:, 0] - theirs[:, 1]),
    ):
        assert distance_of_distributions(a, b) < 1.95 * math.sqrt(2 / n)  # KS at 0.1 %


def distance_of_distributions(a: Any, b: Any) -> float:
    """Kolmogorov and Smirnov's statistic of two samples."""
    at = np.unique(np.concatenate([a, b]))
    below = (np.searchsorted(np.sort(s), at, side="right") / len(s) for s in (a, b))
    one, other = below
    return float(np.abs(one - other).max())


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (30, 33)])
def test_the_centred_box_when_no_try_fits(height: int, width: int) -> None:
    ops = parse_ops([{"crop": [1.0, 1.0], "ratio": [0.9, 1.05], "tries": 1}])
    ours = sample_ops(ops, (3, height, width), 64, draws(4), 0)[0].params["box"]
    theirs = boxes_of_torchvision(1, torch.zeros(3, height, width), [4.0, 4.0], [0.9, 1.05])
    assert ours.tolist() == theirs.tolist() * 4


def test_parameters_of_one_sample_by_hand() -> None:
    """Crop and jitter of sample 17 from the documented draws, in plain Python floats."""
    one = draws(1, start=17)
    crop, jitter = sample_ops(
        parse_ops([{"crop": [0.2, 0.9]}, {"jitter": [0.4, 0.8, 1.5, 0.1]}]), (3, H, W), 32, one, 0
    )
    area, ratio = (one.uniform(f"crop/0/{n}", shape=(10,))[0].tolist() for n in ("area", "ratio"))
    for share, at in zip(area, ratio, strict=True):
        pixels = (0.2 + share * (0.9 - 0.2)) * H * W
        aspect = math.exp(math.log(3 / 4) + at * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if w <= W and h <= H:
            break
    top = one.integer("crop/0/top", 0, H - h).item()
    left = one.integer("crop/0/left", 0, W - w).item()
    assert crop.params["box"].tolist() == [[top, left, h, w]]
    ends = {"brightness": (0.6, 1.4), "contrast": (0.2, 1.8), "saturation": (0, 2.5)}
    for name, (low, high) in ends.items():
        share = one.uniform(f"jitter/0/{name}").item()
        assert jitter.params[name].item() == pytest.approx(low + share * (high - low), rel=1e-6)
    turn = (2 * one.uniform("jitter/0/hue").item() - 1) * 0.1 * 2 * math.pi
    assert jitter.params["hue"].item() == pytest.approx(turn, abs=1e-6)
    assert torch.equal(jitter.params["order"], one.permutation("jitter/0/order", 4))


# -- colours --------------------------------------------------------------------------------------

ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
NAMES = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.parametrize("which", range(4))
def test_each_part_of_jitter_is_torchvisions(which: int) -> None:
    image = to_float(pictures())
    strength = [0.0] * 4
    strength[which] = 0.5
    step = steps_of({"jitter": strength})
    factors = step.params[NAMES[which]].clone()
    assert len(set(factors.tolist())) == B
    if which == 3:
        factors /= 2 * math.pi
    theirs = each(image, lambda x, i: ADJUST[which](x, factors[i].item()))
    close(step.apply(image.clone(), H), theirs, 2e-4 if which in (1, 2) else 1e-5)  # luma digits


def test_jitter_has_an_order_for_each_image() -> None:
    image = to_float(pictures())
    step = steps_of({"jitter": [0.4, 0.4, 0.4, 0.2]})
    orders = step.params["order"].tolist()
    assert len({tuple(order) for order in orders}) > 3

    def jitter(x: Tensor, i: int) -> Tensor:
        for which in orders[i]:
            factor = step.params[NAMES[which]][i].item()
            x = ADJUST[which](x, factor / (2 * math.pi) if which == 3 else factor)
        return x

    close(step.apply(image.clone(), H), each(image, jitter), 1e-3)


SAME: list[
    tuple[dict[str, Any], Any, float]
] = [  # entry, torchvision given the parameters p, tolerance
    ({"flip": 1}, lambda x, p: tv.horizontal_flip(x), 0),
    ({"vflip": 1}, lambda x, p: tv.vertical_flip(x), 0),
    ({"gray": 1}, lambda x, p: tv.rgb_to_grayscale(x, 3), 2e-4),
    ({"solarize": 0.5}, lambda x, p: tv.solarize(x, 0.5), 1e-6),
    ({"solarize": 0.2}, lambda x, p: tv.solarize(x, 0.2), 1e-6),
    ({"invert": 1}, lambda x, p: tv.invert(x), 0),
    ({"gamma": [0.5, 2]}, lambda x, p: tv.adjust_gamma(x, p["gamma"]), 1e-6),
    ({"sharpness": [0.2, 2]}, lambda x, p: tv.adjust_sharpness(x, p["factor"]), 1e-6),
    ({"blur": [0.1, 2]}, lambda x, p: tv.gaussian_blur(x, [5, 5], [p["sigma"]] * 2), 1e-6),
    (
        {"blur": [1, 3], "kernel": 9},
        lambda x, p: tv.gaussian_blur(x, [9, 9], [p["sigma"]] * 2),
        1e-6,
    ),
    ({"posterize": 3}, lambda x, p: tv.to_dtype(tv.posterize(as_bytes(x), 3), scale=True), 1e-6),
    ({"equalize": 1}, lambda x, p: tv.to_dtype(tv.equalize(as_bytes(x)), scale=True), 1e-6),
    ({"normalize": "imagenet"}, lambda x, p: tv.normalize(x, *IMAGENET), 1e-6),
    ({"normalize": {"mean": [0.3], "std": [0.2]}}, lambda x, p: (x - 0.3) / 0.2, 1e-6),
    ({"normalize": "half"}, lambda x, p: 2 * x - 1, 1e-6),
    ({"center_crop": 20}, lambda x, p: tv.center_crop(x, [20, 20]), 0),
    (
        {"random_crop": 20},
        lambda x, p: tv.crop(x, *map(int, p["corner"]), 20, 20),
        0,
    ),
    (
        {"random_crop": 40, "padding": 6},
        lambda x, p: tv.crop(tv.pad(x, [6] * 4), *[int(c) + 6 for c in p["corner"]], 40, 40),
        0,
    ),
]


def as_bytes(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8)


@pytest.mark.parametrize(("entry", "theirs", "atol"), SAME, ids=lambda v: str(v)[:24])
def test_operations_are_torchvisions(
    entry: dict[str, Any], theirs: Callable[[Tensor, dict[str, Any]], Tensor], atol: float
) -> None:
    image = to_float(pictures())
    step = steps_of(entry)
    rows = [{name: value[i].tolist() for name, value in step.params.items()} for i in range(B)]
    expected = each(image, lambda x, i: theirs(x, rows[i]))
    close(step.apply(image.clone(), H), expected, atol)


def test_rotate_turns_counter_clockwise_as_torchvision() -> None:
    image = to_float(pictures())
    step = steps_of({"rotate": 40})
    angles = step.params["angle"].tolist()
    assert min(angles) < 0 < max(angles)
    theirs = each(image, lambda x, i: tv.rotate(x, angles[i], InterpolationMode.BILINEAR))
    away = (step.apply(image.clone(), H) - theirs).abs()
    assert away[..., 12:-12, 12:-12].max() < 1e-4
    assert (away > 0.01).double().mean() < 0.01  # the outer rim, where torchvision fades a mask


def test_erase_fills_the_box_and_nothing_else() -> None:
    image = to_float(pictures())
    step = steps_of({"erase": 1, "fill": 0.25, "area": [0.1, 0.3]})
    expected = image.clone()
    for i, (top, left, h, w) in enumerate(step.params["box"].tolist()):
        assert 0.08 < h * w / (H * W) < 0.34
        expected[i, :, top : top + h, left : left + w] = 0.25
    close(step.apply(image.clone(), H), expected, 0)


def test_noise_has_the_given_deviation() -> None:
    flat = torch.full((B, 3, H, W), 0.5)
    noise = steps_of({"noise": 0.05}).apply(flat.clone(), H) - flat
    assert noise.std().item() == pytest.approx(0.05, rel=0.02)
    assert noise.mean().abs() < 0.001
    assert np.abs(np.corrcoef(noise.flatten(1).numpy()) - np.eye(B)).max() < 0.07


def test_resize_keeps_the_ratio_and_smooths() -> None:
    image = to_float(pictures(height=90, width=120))
    small = steps_of({"resize": 30}, image=image).apply(image, 30)
    assert small.shape == (B, 3, 30, 40)
    theirs = tv.resize(image, [30, 40], antialias=True)
    assert (small - theirs).pow(2).mean().sqrt() < 0.02


def test_blur_kernel_is_a_tenth_of_the_image() -> None:
    spike = torch.zeros(1, 3, 224, 224)
    spike[..., 112, 112] = 1
    blurred = steps_of({"blur": [2, 2]}, image=spike).apply(spike, 224)
    assert (blurred[0, 0, 112] > 0).sum() == 23
    row = blurred[0, 0, 112] / blurred[0, 0, 112].sum()
    assert row[112].item() == pytest.approx(0.199471, abs=1e-6)
    assert row[101].item() == pytest.approx(5.4e-8, rel=0.01)


def test_every_operation_of_the_table_is_tried_above() -> None:
    alone = {"crop", "jitter", "rotate", "erase", "noise", "resize"}
    assert set(TABLE) == alone | {name for entry, _, _ in SAME for name in entry if name in TABLE}
