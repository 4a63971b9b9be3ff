"""BEiT as a graph against BEiT written by hand, its tokenizers, and the numbers of its recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.errors import render
from sslgraph.nodes.base import make_node
from sslgraph.train import train
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.beit_by_hand import Beit, classes, make_views, relative_places
from tests.methods.joint import RUN, pictures, updater_of
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
    hand.encoder.load_state_dict(method.nodes["encoder"].model.state_dict())
    hand.mask_token.data.copy_(method.nodes["encoder"].mask_token)
    hand.head.load_state_dict(method.nodes["head"].layer.state_dict())
    return hand.train()


def batch(images: Tensor) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(len(images))}


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
    updater = updater_of(method, SEED)
    method.nodes["crops"].register_forward_hook(lambda n, given, made: [x.double() for x in made])
    pairs = _pairs(method, by_hand)
    assert sum(p.numel() for g in updater.groups for p in g.parameters) == sum(
        p.numel() for p, _ in pairs.values()
    )
    decayed = [p for name, (_, p) in pairs.items() if p.ndim > 1 and "cls_token" not in name]
    others = [p for _, p in pairs.values() if all(p is not other for other in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    descent = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    for step in range(3):
        data = batch(images) | {"index": torch.arange(BATCH) + step * BATCH}
        made = method.run({}, ["crops.model", "crops.tokens", "mask"], data)
        ids = classes(made["crops.tokens"][0], directions(method), 2)
        by_hand.zero_grad()
        loss = by_hand(made["crops.model"][0], made["mask"][0], ids)
        loss.backward()
        done = updater.begin([data], step)
        torch.testing.assert_close(done.loss, loss.detach(), rtol=1e-7, atol=0)
        for name, (ours, theirs) in pairs.items():
            assert ours.grad is not None, name
            assert _close(ours.grad, theirs.grad), name
        nn.utils.clip_grad_norm_(by_hand.parameters(), 3.0)
        for group in descent.param_groups:
            end, peak = 1e-5, 1.5e-3
            wave = (1 + math.cos(math.pi * step / RUN.total_steps)) / 2
            group["lr"] = end + (peak - end) * wave
        descent.step()
        assert updater.finish(done) == ""
        for name, (ours, theirs) in pairs.items():
            assert _close(ours, theirs), name


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
    hidden = made["mask"].view(1, BATCH, 1, 8, 8).repeat_interleave(4, 3).repeat_interleave(4, 4)
    changed = torch.where(hidden, made["crops.model"].flip(3, 4), made["crops.model"])
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
    """A golden of the recipe, for 2 x 2 places: twelve rows, the last three for the class."""
    golden = [[11, 9, 9, 9, 9], [10, 4, 3, 1, 0], [10, 5, 4, 2, 1], [10, 7, 6, 4, 3]]
    assert relative_places(2).tolist() == [*golden, [10, 8, 7, 5, 4]]


def test_sizes_of_the_recipe() -> None:
    """At most 75 of 196 patches, 14 x 14 ids of 112 pixels, a table for all blocks."""
    sizes = report(sslgraph.load("beit")).sizes
    assert sizes is not None
    assert sizes.shapes["crops", "model"][2:] == (3, 224, 224)
    assert sizes.shapes["crops", "tokens"][2:] == (3, 112, 112)
    assert sizes.shapes["ids", "ids"][2:] == (14 * 14,)
    assert sizes.shapes["hidden", "y"][2:] == (75, 768)
    assert sizes.shapes["head", "y"][2:] == (75, 8192)
    block = 12 * 768 * 768 + (2 + 1 + 4 + 1) * 768 + 4 * 768 + 2 * 768
    ends = 768 * 768 + 768 + 2 * 768 + 2 * 768  # patches; class and mask token; last norm
    assert sizes.parameters["encoder"] == 12 * block + ends + 732 * 12
    assert sizes.parameters["head"] == 8192 * 769


def test_learning_rate_and_decay_of_the_recipe(method: Any) -> None:
    spec = sslgraph.load("beit").train
    assert (spec.optimizer, spec.betas, spec.weight_decay) == ("adamw", (0.9, 0.999), 0.05)
    assert spec.clip is not None
    assert spec.clip.norm == 3
    horizon = Horizon(total_steps=800 * 625, steps_per_epoch=625)
    rates = {0: 0, 5: 7.5e-4, 10: 1.5e-3, 405: (1.5e-3 + 1e-5) / 2, 800: 1e-5}
    for epoch, expected in rates.items():
        rate = learning_rate(spec.lr, spec.batch_size, epoch * 625, horizon)
        assert rate == pytest.approx(expected, abs=1e-12)
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, horizon)
    by_decay = {group.rule.weight_decay: set(group.names) for group in groups}
    decayed, others = by_decay[0.05], by_decay[0.0]
    table = "encoder.model.rel_pos_bias.relative_position_bias_table"
    assert {table, "encoder.mask_token", "head.layer.weight"} <= decayed
    assert {
        "encoder.model.cls_token",
        "encoder.model.blocks.0.gamma_1",
        "head.layer.bias",
    } <= others


def test_first_weights_and_layer_scale(method: Any) -> None:
    model = method.nodes["encoder"].model
    assert model.blocks[1].gamma_2.detach().eq(0.1).all()
    assert model.patch_embed.proj.weight.abs().max() <= 0.02
    assert model.blocks[1].mlp.fc2.weight.abs().max() <= 0.02 / math.sqrt(4)
    assert method.nodes["head"].layer.weight.abs().max() <= 0.02
    assert not model.rel_pos_bias.relative_position_bias_table.any()


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


def _pairs(method: Any, by_hand: Beit) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Every trained parameter of the graph and the one by hand."""
    theirs = dict(by_hand.named_parameters())
    found = {}
    for node, prefix in (("encoder", ""), ("head", "head.")):
        for name, parameter in method.nodes[node].named_parameters():
            key = name.replace("model.", "encoder.").replace("layer.", prefix)
            found[f"{node}.{name}"] = parameter, theirs.pop(key)
    assert not theirs
    return found


def _close(a: Tensor, b: Tensor | None) -> bool:
    assert b is not None
    return torch.allclose(a, b, rtol=1e-6, atol=1e-9)
