"""BEiT as a graph against BEiT written by hand, its tokenizers, and the numbers of its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.checking import report
from sslgraph.errors import render
from sslgraph.nodes.base import make_node
from sslgraph.train import train
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.beit_by_hand import Beit, classes, make_views, relative_places
from tests.methods.joint import RUN, pictures, sizes_of, updater_of
from tests.methods.masked import (
    BEIT_BASE,
    RENAMED,
    TABLE,
    adamw,
    batch,
    paired,
    require_block_masks,
    require_blocks_of_beit,
    require_decay,
    require_equal_run,
    require_first_weights_of_beit,
    require_recipe,
    share_with_head,
    with_other_pixels,
)
from tests.nodes.runs import Pictures

SEED, BATCH, CLASSES = 6, 6, 40
SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL: dict[str, Any] = {
    "vars.size": 32,
    "vars.patch": 4,
    "vars.classes": CLASSES,
    "nodes.crops.crops.tokens.size": 16,
    "nodes.ids.patch": 2,
    "nodes.mask.patches": 24,
    "nodes.mask.min_block": 10,
    "nodes.encoder.drop_path": 0,
    **{f"nodes.encoder.args.{name}": value for name, value in {**SIZES, "patch_size": 4}.items()},
    "train.lr.warmup": "0 steps",
}


@pytest.fixture
def images() -> Tensor:
    return pictures(BATCH, 40)


@pytest.fixture
def method() -> Any:
    made = sslgraph.compile(sslgraph.load("beit", set=SMALL), seed=SEED)
    made.clock.set(total_steps=RUN.total_steps, steps_per_epoch=RUN.steps_per_epoch)
    return made


@pytest.fixture
def by_hand(method: Any) -> Beit:
    hand = Beit(32, 2, 2, 8, 4, CLASSES)
    share_with_head(method, hand)
    return hand.train()


def directions(method: Any) -> Tensor:
    made: Tensor = method.nodes["ids"].directions
    return made


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    """One jitter, flip and box for both resolutions."""
    found = method.run({}, ["crops.model", "crops.tokens"], batch(images))
    expected = make_views(images.float() / 255, SEED, 32, 16)
    for made, by_formula, atol in zip(found.values(), expected, (2e-4, 2e-5), strict=True):
        torch.testing.assert_close(made[0], by_formula, rtol=0, atol=atol)


def test_loss_gradients_and_weights_are_equal_over_three_steps(
    method: Any, by_hand: Beit, images: Tensor
) -> None:
    """In float64, with the run's own optimizer: decay, clipping and rate of the recipe."""
    method.double()
    by_hand.double()
    method.nodes["crops"].register_forward_hook(lambda n, given, made: [x.double() for x in made])
    pairs = paired(method, by_hand, RENAMED)
    named = [(name, theirs) for name, (_, theirs) in pairs.items()]

    def loss(data: dict[str, Tensor]) -> Tensor:
        made = method.run({}, ["crops.model", "crops.tokens", "mask"], data)
        ids = classes(made["crops.tokens"][0], directions(method), 2)
        cost: Tensor = by_hand(made["crops.model"][0], made["mask"][0], ids)
        return cost

    require_equal_run(
        method,
        loss,
        pairs,
        images,
        seed=SEED,
        descent=adamw(named, without=("cls_token",)),
        clip=3.0,
        rates=(1.5e-3, 1e-5),
    )


def test_a_loss_that_averages_over_images_is_seen(
    method: Any, by_hand: Beit, images: Tensor
) -> None:
    """The comparison can fail: masks hide unlike numbers, so means over images are another loss."""
    other = {**SMALL, "nodes.hidden.average": "image"}
    wrong: Any = sslgraph.compile(sslgraph.load("beit", set=other), seed=SEED)
    heads = (by_hand.head, method.nodes["head"].layer, wrong.nodes["head"].layer)
    for head in heads:
        head.weight.data *= 100  # of first weights all ids cost about ln 40
    made = method.run({}, ["crops.model", "crops.tokens", "mask", "loss"], batch(images))
    assert len(set(made["mask"][0].sum(1).tolist())) > 1
    ids = classes(made["crops.tokens"][0], directions(method), 2)
    theirs = by_hand(made["crops.model"][0], made["mask"][0], ids)
    torch.testing.assert_close(made["loss"], theirs, rtol=1e-5, atol=0)
    assert not torch.allclose(wrong(batch(images)).loss, theirs, rtol=1e-4)


def test_only_ids_of_hidden_patches_matter(method: Any, images: Tensor) -> None:
    made = method.run({}, ["mask", "ids", "loss"], batch(images))
    mask, ids = made["mask"], made["ids"]
    changed = (ids + 1) % CLASSES
    visible = method.run({"ids": torch.where(mask, ids, changed)}, ["loss"], batch(images))
    assert torch.equal(visible["loss"], made["loss"])
    hidden = method.run({"ids": torch.where(mask, changed, ids)}, ["loss"], batch(images))
    assert not torch.allclose(hidden["loss"], made["loss"], rtol=1e-6)


def test_hidden_pixels_never_reach_the_encoder(method: Any, images: Tensor) -> None:
    made = method.run({}, ["crops.model", "mask", "encoder.tokens"], batch(images))
    changed = with_other_pixels(made["crops.model"], made["mask"], 4)
    feed = {"crops.model": changed, "mask": made["mask"]}
    after = method.run(feed, ["encoder.tokens"], batch(images))
    assert torch.equal(after["encoder.tokens"], made["encoder.tokens"])


def test_chance_at_the_start(images: Tensor) -> None:
    """ln 8192 = 9.0109, as logits begin near zero; and the tokenizer stays as it is."""
    graph = sslgraph.load("beit", set={**SMALL, "vars.classes": 8192})
    method: Any = sslgraph.compile(graph, seed=SEED)
    before = directions(method).clone()
    loss = method(batch(images)).loss
    assert loss.item() == pytest.approx(9.0109, abs=0.1)
    loss.backward()
    method.after_step()
    assert torch.equal(directions(method), before)
    assert "ids" not in method.parameters_by_node()


def test_rows_of_the_table_of_relative_positions() -> None:
    """For 2 x 2 places: twelve rows, the last three for the class (BEiT's released code).

    `RelativePositionBias` in `modeling_finetune.py`: place minus place, rows before columns.
    """
    golden = [[11, 9, 9, 9, 9], [10, 4, 3, 1, 0], [10, 5, 4, 2, 1], [10, 7, 6, 4, 3]]
    golden += [[10, 8, 7, 5, 4]]
    assert relative_places(2).tolist() == golden
    sizes = {f"nodes.encoder.args.{name}": value for name, value in SIZES.items()}
    tiny = {**SMALL, **sizes, "nodes.encoder.args.patch_size": 16, "vars.patch": 16}
    hidden = {"nodes.mask.patches": 1, "nodes.mask.min_block": 1, "nodes.ids.patch": 8}
    method: Any = sslgraph.compile(sslgraph.load("beit", set={**tiny, **hidden}))
    shared = method.nodes["encoder"].model.rel_pos_bias
    assert shared.relative_position_index.view(5, 5).tolist() == golden
    assert shared.relative_position_bias_table.shape == (12, 2)


def test_sizes_of_the_recipe() -> None:
    """At most 75 of 196 patches, 14 x 14 ids of 112 pixels, a table for all blocks."""
    sizes = sizes_of("beit")
    assert sizes.shapes["crops", "model"][2:] == (3, 224, 224)
    assert sizes.shapes["crops", "tokens"][2:] == (3, 112, 112)
    assert sizes.shapes["ids", "ids"][2:] == (14 * 14,)
    assert sizes.shapes["hidden", "y"][2:] == (75, 768)
    assert sizes.shapes["head", "y"][2:] == (75, 8192)
    assert sizes.parameters["encoder"] == BEIT_BASE
    assert sizes.parameters["head"] == 8192 * 769


def test_learning_rate_and_decay_of_the_recipe(method: Any) -> None:
    """Of `run_beit_pretraining.py` and the commands beside it in the released code."""
    spec = sslgraph.load("beit").train
    rates = {0: 0, 5: 7.5e-4, 10: 1.5e-3, 405: (1.5e-3 + 1e-5) / 2, 800: 1e-5}
    require_recipe(spec, rates=rates, epochs=800, clip=3)
    names = (TABLE, "encoder.mask_token", "encoder.model.blocks.0.gamma_1")
    require_decay(method, spec, *names, without=("cls_token",))


def test_masks_of_the_recipe() -> None:
    require_block_masks("beit", 75, 74.50)


def test_blocks_of_the_recipe() -> None:
    require_blocks_of_beit("beit", SMALL, drop_path=0.1, scale=0.1)


def test_first_weights(method: Any) -> None:
    require_first_weights_of_beit(method)
    weight = method.nodes["head"].layer.weight
    assert 0.99 * 0.02 < weight.abs().max() <= 0.02


TOKENIZER: dict[str, Any] = {
    "sslgraph": 1,
    "name": "tokenizer",
    "nodes": {
        "views": {"use": "augment", "in": "batch.image", "views": 2, "size": 112},
        "encoder": {"use": "encoder", "in": "views", "arch": "test_resnet"},
        "ids": {"use": "tokenizer", "in": "views", "count": CLASSES, "patch": 8},
        "loss": {"use": "nt_xent", "in": "encoder.embedding"},
    },
    "minimize": {"loss": 1.0},
    "outputs": {"ids": "ids"},
    "train": {"lr": {"peak": 0.01}, "steps": 1, "batch_size": 4},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose one output are 14 x 14 classes of images of 112 pixels."""
    folder = tmp_path_factory.mktemp("runs") / "tokenizer-001"
    train(sslgraph.load(TOKENIZER), Pictures(), out=folder)
    return folder


def with_run(run: Path, **changes: Any) -> sslgraph.Graph:
    """BEiT with a trained tokenizer, at the published sizes of images."""
    small = {f"nodes.encoder.args.{name}": value for name, value in SIZES.items()}
    given = {"nodes.ids.run": str(run), "vars.classes": CLASSES, **small, **changes}
    return sslgraph.load("beit", preset="frozen", set=given)


def test_a_frozen_run_is_the_tokenizer(run: Path, images: Tensor) -> None:
    """Two lines in place of one: ids are those of the run's weights, for the smaller view."""
    method: Any = sslgraph.compile(with_run(run), seed=SEED)
    made = method.run({}, ["crops.tokens", "ids", "mask", "loss"], batch(images))
    assert made["ids"].shape == made["mask"].shape == (1, BATCH, 196)
    state = next((run / "checkpoints").glob("*/state.pt"))
    stored = torch.load(state, weights_only=True)["method"]["nodes.ids.directions"]
    assert torch.equal(made["ids"][0], classes(made["crops.tokens"][0], stored, 8))
    before = {name: value.clone() for name, value in method.nodes["ids"].state_dict().items()}
    updater = updater_of(method, SEED)
    for step in range(2):
        done = updater.begin([batch(images)], step)
        assert done.loss.isfinite()
        assert updater.finish(done) == ""
    for name, value in method.nodes["ids"].state_dict().items():
        assert torch.equal(value, before[name]), name
    assert method.outputs({"image": images})["tokens"].shape == (1, BATCH, 196, 32)


def test_a_tokenizer_of_another_size_is_refused(run: Path) -> None:
    graph = with_run(run, **{"nodes.crops.crops.tokens.size": 96})
    told = "\n".join(render(problem) for problem in report(graph).problems)
    assert "views of 112 x 112 pixels" in told


def test_more_classes_than_the_head_has_are_refused(run: Path, images: Tensor) -> None:
    method: Any = sslgraph.compile(with_run(run, **{"vars.classes": 3}), seed=SEED)
    with pytest.raises(ValueError, match="has 3 classes, 0 to 2, but a label is"):
        method(batch(images))


def test_a_preset_for_the_larger_data() -> None:
    graph = sslgraph.load("beit", preset="imagenet22k")
    assert graph.train.epochs == 150
    horizon = Horizon(total_steps=150 * 6900, steps_per_epoch=6900)
    rate = learning_rate(graph.train.lr, 2048, 10000, horizon)
    assert rate == pytest.approx(1.5e-3)
    crops: Any = graph.nodes["crops"].settings
    assert crops["ops"][-1]["normalize"]["model"] == "half"
    assert make_node("block_mask", patches=75, min_block=16).config.count == "at_most"
