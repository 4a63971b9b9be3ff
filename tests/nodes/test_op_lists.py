"""Lists of operations: what a view depends on, evaluation, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from sslgraph.nodes.keyed import Draws
from sslgraph.nodes.ops import apply_ops, evaluate_ops, parse_ops, sample_ops, to_float
from sslgraph.nodes.ops.base import on_masked, on_selected

B, H, W = 8, 40, 48
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def pictures(batch: int = B, height: int = H, width: int = W) -> Tensor:
    """Smooth random colours, uint8; image i is the same in every batch."""
    made = [
        torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(i)) for i in range(batch)
    ]
    smooth = torch.nn.functional.interpolate(torch.cat(made), (height, width), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


def draws(batch: int = B, *, start: int = 0, view: int = 0) -> Draws:
    return Draws(11, view, torch.arange(start, start + batch), 5)


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


SIMCLR: list[dict[str, Any]] = [
    {"crop": [0.08, 1]},
    {"flip": 0.5},
    {"jitter": [0.8, 0.8, 0.8, 0.2], "p": 0.8},
    {"gray": 0.2},
    {"blur": [0.1, 2.0], "p": 0.5},
    {"solarize": 0.5, "p": 0.2},
    {"normalize": "imagenet"},
]
ALL: list[dict[str, Any]] = [
    {"rotate": 20, "p": 0.5},
    {"vflip": 0.5},
    {"sharpness": [0.5, 2], "p": 0.5},
    {"posterize": 4, "p": 0.3},
    {"equalize": 0.3},
    {"gamma": [0.5, 2], "p": 0.5},
    {"invert": 0.3},
    {"noise": 0.1, "p": 0.5},
    {"erase": 0.5},
    *SIMCLR,
]


@pytest.mark.parametrize("entries", [SIMCLR, ALL], ids=["simclr", "all"])
def test_a_view_does_not_depend_on_the_batch(entries: list[dict[str, Any]]) -> None:
    ops, image = parse_ops(entries), pictures(32)
    whole = apply_ops(ops, image, 32, draws(32), 0)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    mixed = apply_ops(ops, image[order], 32, Draws(11, 0, order, 5), 0)
    close(mixed, whole[order], 1e-6)
    for i in (0, 17, 31):
        alone = apply_ops(ops, image[i : i + 1], 32, draws(1, start=i), 0)
        close(alone, whole[i : i + 1], 1e-6)


def test_views_differ_and_global_generators_are_untouched() -> None:
    ops, image = parse_ops(ALL), pictures()
    state = torch.random.get_rng_state()
    one = apply_ops(ops, image, 32, draws(), 0)
    torch.manual_seed(9)
    again = apply_ops(ops, image, 32, draws(), 0)
    torch.random.set_rng_state(state)
    apply_ops(ops, image, 32, draws(), 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, again)
    other = apply_ops(ops, image, 32, draws(view=1), 1)
    assert (one - other).abs().flatten(1).amax(1).min() > 0.1


def test_long_batches_are_cut_without_a_trace() -> None:
    ops, image = parse_ops(SIMCLR), pictures(160, 120, 120)
    assert 160 * 3 * 120 * 120 * 4 > 2**24
    whole = apply_ops(ops, image, 32, draws(160), 0)
    last = apply_ops(ops, image[-5:], 32, draws(5, start=155), 0)
    assert whole.shape == (160, 3, 32, 32)
    close(last, whole[-5:], 1e-6)


def test_an_operation_taken_out_leaves_the_draws_of_the_others() -> None:
    def params(entries: list[dict[str, Any]]) -> dict[str, Tensor]:
        made = sample_ops(parse_ops(entries), (3, H, W), 32, draws(), 0)
        return {f"{s.op.name}/{name}": v for s in made for name, v in s.params.items()}

    full, less = params(SIMCLR), params([e for e in SIMCLR if "gray" not in e and "flip" not in e])
    assert all(torch.equal(full[name], value) for name, value in less.items())
    twice = sample_ops(
        parse_ops([{"blur": [0.1, 2]}, {"blur": [0.1, 2]}]), (3, H, W), 32, draws(), 0
    )
    assert not torch.equal(twice[0].params["sigma"], twice[1].params["sigma"])


def test_the_input_is_not_written_to() -> None:
    for image in (pictures(), to_float(pictures())):
        kept = image.clone()
        apply_ops(
            parse_ops([{"jitter": [0.4] * 4}, {"flip": 0.5}, {"gray": 0.5}]), image, 32, draws(), 0
        )
        evaluate_ops(parse_ops(SIMCLR), image, 32)
        assert torch.equal(image, kept)


def test_chances_are_per_sample_and_per_view() -> None:
    ops = parse_ops([{"invert": {"each": [0.25, 1.0, 0.0]}}])
    image = torch.zeros(400, 1, 4, 4)
    shares = [
        apply_ops(ops, image, 4, draws(400, view=view), view).mean(dim=(1, 2, 3))
        for view in range(3)
    ]
    assert set(shares[0].tolist()) == {0.0, 1.0}
    assert abs(shares[0].mean() - 0.25) < 0.1
    assert shares[1].min() == 1
    assert shares[2].max() == 0


def test_selecting_and_masking_agree() -> None:
    image, factor = to_float(pictures()), torch.linspace(0.1, 1, B)
    for rows in (torch.arange(B) % 3 == 0, torch.zeros(B, dtype=torch.bool), torch.ones(B) > 0):
        results = [
            way(
                image.clone(),
                rows,
                {"factor": factor},
                lambda x, p: x * p["factor"][:, None, None, None],
            )
            for way in (on_selected, on_masked)
        ]
        expected = torch.where(
            rows[:, None, None, None], image * factor[:, None, None, None], image
        )
        assert torch.equal(results[0], expected)
        assert torch.equal(results[1], expected)


def test_evaluation_is_the_centre_normalised() -> None:
    ops = parse_ops(SIMCLR)
    image = pictures(2, 256, 256)
    view = evaluate_ops(ops, image, 224)
    expected = tv.normalize(tv.center_crop(to_float(image), [224, 224]), *IMAGENET)
    close(view, expected, 1e-6)  # no resampling where the image is 8/7 of the view
    assert torch.equal(view[1:], evaluate_ops(ops, image[1:], 224))
    whole = evaluate_ops(parse_ops([{"crop": [0.2, 1]}]), pictures(2, 32, 32), 32)
    assert torch.equal(whole, to_float(pictures(2, 32, 32)))
    wide = evaluate_ops(parse_ops([{"flip": 1}]), pictures(2, 96, 200), 48)
    assert wide.shape == (2, 3, 48, 48)


def test_evaluation_keeps_the_sizes_of_the_list() -> None:
    ops = parse_ops([{"resize": 60}, {"random_crop": 40}, {"flip": 1}])
    image = pictures(2, 90, 90)
    view = evaluate_ops(ops, image, 40)
    resized = apply_ops(parse_ops([{"resize": 60}]), image, 60, draws(2), 0)
    close(view, tv.center_crop(resized, [40, 40]), 1e-6)


def test_without_a_crop_the_centred_square_is_resized() -> None:
    image = to_float(pictures())
    view = apply_ops(parse_ops([{"normalize": "half"}]), image, H, draws(), 0)
    close(view, 2 * tv.center_crop(image, [H, H]) - 1, 1e-6)


def test_wrong_images_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"uint8 .* or floating .* got torch.int64"):
        apply_ops(parse_ops(SIMCLR), pictures().long(), 32, draws(), 0)
    with pytest.raises(ValueError, match=r"center_crop: 64 needs .* 64 x 64 pixels, got 40 x 48"):
        apply_ops(parse_ops([{"center_crop": 64}]), pictures(), 32, draws(), 0)


def test_autocast_does_not_touch_a_view() -> None:
    ops = parse_ops([{"crop": [0.5, 1]}, {"blur": [1, 2]}])
    plain = apply_ops(ops, pictures(), 32, draws(), 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply_ops(ops, pictures(), 32, draws(), 0), plain)
