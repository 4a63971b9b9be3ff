"""Masks into copies: a copy is given other masks than its original, and goes by their numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph

EMA, SHARED = {"use": "ema", "momentum": 0.5}, {"use": "shared"}
FEW = {"use": "random_mask", "in": "view", "patch": 4, "ratio": 0.25}
MOST = {**FEW, "ratio": 0.75}
RAGGED = {"use": "block_mask", "in": "view", "patch": 4, "patches": 9, "count": "at_most"}


def compiled(copy: dict[str, Any], other: dict[str, Any]) -> Any:
    """Rows of 4 of 16 places go through a head; a copy of both is given another mask."""
    nodes: dict[str, Any] = {
        "view": {"use": "augment", "in": "batch.image", "views": 1, "size": 16, "ops": []},
        "few": FEW,
        "other": other,
        "tokens": {"use": "patchify", "in": "view", "patch": 4},
        "hidden": {"use": "gather_tokens", "in": {"x": "tokens", "mask": "few"}},
        "head": {"use": "projector", "in": "hidden", "hidden": [], "out": 48, "norm": "none"},
        "loss": {"use": "mse", "in": {"prediction": "head", "target": "hidden"}, "pairs": "same"},
        "again": {**copy, "of": ["hidden", "head"], "in": {"x": "tokens", "mask": "other"}},
    }
    outputs = {"rows": "again", "weight": "again.hidden.weight"}
    graph = {"sslgraph": 1, "nodes": nodes, "minimize": {"loss": 1.0}, "outputs": outputs}
    return sslgraph.compile(sslgraph.load(graph))


@pytest.fixture
def batch() -> dict[str, Tensor]:
    image = torch.rand(4, 3, 19, 19, generator=torch.Generator().manual_seed(0))
    return {"image": image, "index": torch.arange(4)}


@pytest.mark.parametrize("other", [MOST, RAGGED], ids=["even", "ragged"])
@pytest.mark.parametrize("copy", [EMA, SHARED], ids=["ema", "shared"])
def test_rows_are_those_that_the_copy_s_own_masks_hide(
    copy: dict[str, Any], other: dict[str, Any], batch: dict[str, Tensor]
) -> None:
    method = compiled(copy, other)
    fetch = ["tokens", "few", "other", "hidden", "again.hidden.y", "again.hidden.weight"]
    made = method.run({}, fetch, batch)
    for rows, mask in (("hidden", "few"), ("again.hidden.y", "other")):
        for image, hidden in enumerate(made[mask][0]):
            expected = made["tokens"][0, image, hidden]
            assert torch.equal(made[rows][0, image, : len(expected)], expected)
    count = made["other"][0].sum(-1, keepdim=True)
    place = torch.arange(made["again.hidden.y"].shape[2])
    assert len(place) >= int(count.max())
    expected = torch.where(place < count, 1 / (4 * count.clamp(min=1)), 0)
    torch.testing.assert_close(made["again.hidden.weight"][0], expected)


def test_the_original_s_numbers_are_untouched(batch: dict[str, Tensor]) -> None:
    """Also after a call that fails half-way."""
    method = compiled(SHARED, MOST)
    first = method.run({}, ["hidden"], batch)["hidden"]
    with pytest.raises(ValueError, match="gather_tokens"):
        method.nodes["again"](torch.zeros(1, 4, 9, 48), torch.zeros(1, 4, 16, dtype=torch.bool))
    method.run({}, ["again"], batch)
    assert torch.equal(method.run({}, ["hidden"], batch)["hidden"], first)
    assert first.shape[2] == 4


@pytest.mark.parametrize("copy", [EMA, SHARED], ids=["ema", "shared"])
def test_one_compiled_region_holds_both(copy: dict[str, Any], batch: dict[str, Tensor]) -> None:
    method = compiled(copy, MOST)
    views = method.run({}, ["tokens", "few", "other"], batch)
    expected = method.run(views, ["head", "again"])
    method.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        found = method.run(views, ["head", "again"])
        torch.testing.assert_close(found["again"], expected["again"])
        torch.testing.assert_close(found["head"], expected["head"])


@pytest.mark.parametrize("copy", [EMA, SHARED], ids=["ema", "shared"])
def test_a_masked_chain_gives_what_its_original_would_give(copy: dict[str, Any]) -> None:
    """An encoder and a decoder with masks of another number of places, in training."""
    image, index = torch.rand(4, 3, 37, 37), torch.arange(4)
    found = []
    for mask, port in (("mask", "again"), ("few", "decoder")):
        chain = {"image": "view", "mask": "few", "decoder.mask": "few"}
        nodes = {
            "few": FEW,
            "encoder": {"in": {"image": "view", "mask": mask}},
            "decoder": {"in": {"x": "encoder.sequence", "mask": mask}, "width": 24, "heads": 3},
            "loss": {"in": {"prediction": "decoder", "target": "target", "mask": mask}},
            "again": {**copy, "of": ["encoder", "decoder"], "in": chain},
        }
        graph = {"sslgraph": 1, "extends": "mae", "nodes": nodes, "outputs": {"again": "again"}}
        method = sslgraph.compile(sslgraph.load(graph, preset="tiny"), seed=0)
        found.append(method.run({}, [port], {"image": image, "index": index})[port])
    torch.testing.assert_close(*found)
