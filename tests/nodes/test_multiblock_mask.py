"""Multi-block masks against the figures of I-JEPA's collator, and what a draw depends on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import Context, SettingError
from sslgraph.nodes.multiblock import block_size
from sslgraph.ports import Visible
from sslgraph.registry import find

SCALE, ASPECT = (0.15, 0.2), (0.75, 1.5)


def node_of(side: int = 224, *, seed: int = 0, samples: int = 16, **settings: Any) -> Any:
    context = Context("blocks", seed, samples=samples)
    axes = {"H": side, "W": side}
    return find("multiblock_mask").module(axes=axes, context=context, **settings)


def masks_of(node: Any, batch: int = 16, start: int = 0, side: int = 224) -> tuple[Tensor, Tensor]:
    """Visible context B N and target blocks 4 B N, on a square grid."""
    image = torch.zeros(1, batch, 1, 1, 1).expand(1, batch, 1, side, side)
    context, targets = node(image, torch.arange(start, start + batch)[None])
    return ~context[0], targets


def sides(block: Tensor, grid: int) -> tuple[int, int]:
    """Height and width of a rectangle of true places; fails where it is none."""
    rows, columns = block.view(grid, grid).any(1), block.view(grid, grid).any(0)
    assert block.sum() == rows.sum() * columns.sum()
    return int(rows.sum()), int(columns.sum())


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (16, [(7, 6), (8, 6), (7, 6), (5, 7), (7, 6), (8, 6)]),
        (14, [(6, 6), (7, 5), (7, 5), (5, 6), (6, 5), (7, 5)]),
    ],
)
def test_sizes_of_the_released_collator(grid: int, expected: list[tuple[int, int]]) -> None:
    """Of its first six batches: torch's generator with seeds 0 to 5, one number for both."""
    for seed, size in enumerate(expected):
        draw = torch.rand(1, generator=torch.Generator().manual_seed(seed)).double()
        if seed == 0:
            assert draw.item() == pytest.approx(0.496257, abs=1e-6)
        high, wide = block_size(draw, (grid, grid), SCALE, ASPECT)
        assert (high.item(), wide.item()) == size
    second = torch.rand(2, generator=torch.Generator().manual_seed(0))[1].double()
    assert second.item() == pytest.approx(0.768222, abs=1e-6)
    high, wide = block_size(second, (grid, grid), (0.85, 1.0), (1.0, 1.0))
    assert (high.item(), wide.item()) == (grid - 1, grid - 1)


@pytest.mark.parametrize(("side", "patch", "mean"), [(224, 14, 82.5), (224, 16, 60.6)])
def test_the_mean_context_of_batches_of_16(side: int, patch: int, mean: float) -> None:
    """Its spread between batches is below 20, so that the mean of 200 is within 4."""
    node = node_of(side, patch=patch)
    counts = [masks_of(node, start=16 * n)[0].sum(-1) for n in range(200)]
    assert all(len(count.unique()) == 1 for count in counts)
    found = torch.stack([count[0] for count in counts]).double()
    assert found.std() < 20
    assert found.mean().item() == pytest.approx(mean, abs=4)


def test_blocks_and_contexts() -> None:
    node = node_of(patch=16, truncate=False)
    seen = torch.zeros(14, 14, dtype=torch.bool)
    tops: set[int] = set()
    for number in range(40):
        context, targets = masks_of(node, start=16 * number)
        assert not (context & targets.any(0)).any()
        size = {sides(block, 14) for block in targets.flatten(0, 1)}
        assert len(size) == 1  # one in a batch
        square = (context | targets.any(0)).view(-1, 14, 14)
        assert square[:, :13, :13].all()  # 13 x 13 in the upper left corner
        seen |= (context | targets.any(0)).view(-1, 14, 14).any(0)
        tops |= {int(block.view(14, 14).any(1).int().argmax()) for block in targets[0]}
        assert (context.sum(-1) > 10).all()
    assert seen[:13, :13].all()
    assert not seen[13].any()
    assert not seen[:, 13].any()
    assert 0 in tops
    assert max(tops) >= 7  # of blocks at most 7 high, whose last top would be 7, left out for 6's


def test_truncation_cuts_the_last_places_in_raster_order() -> None:
    whole, targets = masks_of(node_of(patch=16, truncate=False))
    cut, same = masks_of(node_of(patch=16))
    assert torch.equal(targets, same)  # blocks of one size have nothing to cut
    fewest = int(whole.sum(-1).min())
    assert whole.sum(-1).max() > fewest
    for before, after in zip(whole, cut, strict=True):
        places = before.nonzero().flatten()[:fewest]
        assert after.nonzero().flatten().tolist() == places.tolist()


def test_the_size_is_drawn_by_the_batch_and_places_by_the_sample() -> None:
    """Two halves of one pass, as two processes have them, have blocks of one size."""
    node = node_of(patch=16, truncate=False)
    sizes = {}
    for number in range(12):
        (a, first), (b, second) = (masks_of(node, 8, 16 * number + 8 * half) for half in (0, 1))
        context, targets = masks_of(node, 16, 16 * number)
        assert torch.equal(torch.cat([first, second], 1), targets)
        assert torch.equal(torch.cat([a, b]), context)
        sizes[number] = sides(targets[0, 0], 14)
    assert len(set(sizes.values())) > 2
    other = masks_of(node_of(patch=16, truncate=False, seed=1))[1]
    assert not torch.equal(other, masks_of(node)[1])


def test_a_size_for_each_image() -> None:
    node = node_of(patch=16, size_per="image")
    context, targets = masks_of(node, 32)
    assert len(targets.sum(-1).unique()) == 1  # cut to the smallest
    assert len(context.sum(-1).unique()) == 1
    whole = masks_of(node_of(patch=16, size_per="image", truncate=False), 32)[1]
    assert len({sides(block, 14) for block in whole[0]}) > 2
    assert torch.equal(
        whole[:, 5:9], masks_of(node_of(patch=16, size_per="image", truncate=False), 4, 5)[1]
    )


def test_small_contexts_take_places_of_the_last_targets_back() -> None:
    """On a grid of 6 x 6 the square has 25 places, four blocks often leave too few."""
    settings: dict[str, Any] = {"target_blocks": {"scale": [0.3, 0.3]}, "min_keep": 8}
    settings["truncate"] = False
    node = node_of(24, patch=4, **settings)
    context, targets = masks_of(node, 64, side=24)
    assert (context.sum(-1) > 8).all()
    square = torch.zeros(6, 6, dtype=torch.bool)
    square[:5, :5] = True
    kept_out = []
    for image, blocks in zip(context, targets.unbind(1), strict=True):
        rests = {count: square.flatten() & ~blocks[:count].any(0) for count in range(5)}
        most = max(count for count, rest in rests.items() if rest.sum() > 8)
        assert torch.equal(image, rests[most])
        kept_out.append(most)
    assert len(set(kept_out)) > 2
    whole = masks_of(node_of(24, patch=4, **settings, context_block={"overlap": True}), 64, side=24)
    assert whole[0].sum(-1).min() >= 25


def test_evaluation_hides_nothing() -> None:
    context, targets = node_of(patch=16).eval()(
        torch.zeros(1, 2, 3, 224, 224), torch.arange(2)[None]
    )
    assert context.shape == (1, 2, 196)
    assert targets.shape == (4, 2, 196)
    assert not context.any()
    assert not targets.any()


@pytest.mark.parametrize(
    ("settings", "remedies"),
    [
        ({}, ("", "")),
        ({"truncate": False}, ("truncate: true", "")),
        ({"truncate": False, "size_per": "image"}, ("truncate: true", "truncate: true")),
        ({"size_per": "image"}, ("", "")),
    ],
)
def test_counts_that_are_declared_hold(settings: dict[str, Any], remedies: tuple[str, str]) -> None:
    node = node_of(patch=16, **settings)
    declared = find("multiblock_mask").mask_counts(node.config, 196)
    for number in range(20):
        context, targets = masks_of(node, start=16 * number)
        for name, visible, remedy in zip(
            ("context", "targets"), (context, ~targets), remedies, strict=True
        ):
            counts, bounds = visible.sum(-1), declared[name]
            assert bounds.remedy == remedy
            assert bounds.fewest <= counts.min() <= counts.max() <= bounds.most
            assert bounds.even is (bounds.remedy == "")
            if bounds.even:
                assert len(counts.unique()) == 1
    assert isinstance(declared["context"], Visible)


def test_views_of_the_outputs() -> None:
    declared = find("multiblock_mask")
    config = node_of(patch=16, target_blocks={"count": 3}).config
    found = declared.identities("blocks", config, {"image": ("view.0",)})
    assert found == {
        "context": ("view.0",),
        "targets": ("blocks.targets.0", "blocks.targets.1", "blocks.targets.2"),
    }


@pytest.mark.parametrize(
    ("settings", "text", "path"),
    [
        ({"patch": 5}, "cuts images into patches of 5 x 5", ("patch",)),
        ({"patch": 4}, "the smallest block has 9 of 64 places", ("min_keep",)),
        (
            {"patch": 4, "min_keep": 5, "target_blocks": {"scale": [0.05, 0.2]}},
            "the smallest block has 4 of 64 places",
            ("target_blocks",),
        ),
    ],
)
def test_blocks_that_are_too_small(settings: dict[str, Any], text: str, path: Any) -> None:
    with pytest.raises(SettingError, match=text) as raised:
        node_of(32, **settings)
    assert raised.value.path == path


@pytest.mark.parametrize(
    "settings",
    [{"target_blocks": {"scale": [0.3, 0.2]}}, {"context_block": {"scale": [1, 0.9]}}],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the lower number stands first"):
        node_of(**settings)
