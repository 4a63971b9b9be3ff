"""data2vec as a graph against data2vec written by hand, and the numbers of its recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.checking import report
from sslgraph.nodes.base import make_node
from sslgraph.train.groups import parameter_groups
from sslgraph.train.rates import Horizon, learning_rate
from tests.methods.data2vec_by_hand import Data2Vec, target_of

SEED = 4
TINY = {"embed_dim": 24, "depth": 4, "num_heads": 2, "init_values": 0.5}
SMALL = {
    "vars.size": 64,
    "vars.width": 24,
    "nodes.mask.patches": 11,
    "nodes.mask.min_block": 6,
    "nodes.encoder.drop_path": 0,
    "nodes.encoder.attention_drop": 0,
    **{f"nodes.encoder.args.{name}": value for name, value in TINY.items()},
    "nodes.teacher.taps": [2, 3, 4],
    "nodes.teacher.momentum": 0.9,
    "nodes.blocks.in": ["teacher.tap2", "teacher.tap3", "teacher.tap4"],
    "nodes.mean.in": ["blocks.0", "blocks.1", "blocks.2"],
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Six smooth coloured pictures, uint8."""
    wave = torch.linspace(0, 6, 74)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(6 * 3).view(6, 3, 1, 1)
    return ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() * 127 + 128).to(torch.uint8)


@pytest.fixture
def method() -> Any:
    made: Any = sslgraph.compile(sslgraph.load("data2vec", set=SMALL), seed=SEED)
    made.clock.set(total_steps=100, steps_per_epoch=10)
    generator = torch.Generator().manual_seed(1)
    # a prediction near zero has the same error for every target of variance 1
    nn.init.normal_(made.nodes["predictor"].layers[0].weight, generator=generator)
    for name, parameter in made.nodes["encoder"].named_parameters():
        if "relative_position" in name:  # a table of zeros would hide a wrong order of places
            nn.init.normal_(parameter, generator=generator)
        elif ".blocks." in name and parameter.ndim > 1:
            parameter.data.mul_(10)  # so that blocks differ in what they give
    for slow, fast in zip(
        made.nodes["teacher"].parameters(), made.nodes["encoder"].parameters(), strict=True
    ):
        slow.data.copy_(fast)
    return made


@pytest.fixture
def by_hand(method: Any) -> Data2Vec:
    node = method.nodes["encoder"]
    left = ("num_classes", "img_size", "global_pool", "in_chans")
    args = {k: v for k, v in node.model_args.items() if k not in left}
    hand = Data2Vec("beit_base_patch16_224", 64, 3, **args)
    hand.student.load_state_dict(node.state_dict())
    hand.head.load_state_dict(method.nodes["predictor"].layers[0].state_dict())
    hand.make_teacher()
    return hand.train()


def batch(images: Tensor, step: int = 0) -> dict[str, Tensor]:
    return {"image": images, "index": torch.arange(len(images)) + step * len(images)}


def test_loss_gradients_and_teacher_are_equal_over_three_steps(
    method: Any, by_hand: Data2Vec, images: Tensor
) -> None:
    """In float64, with ragged masks, which count every hidden place of the batch alike."""
    method.double()
    by_hand.double()
    named = list(_pairs(method, by_hand))
    descents = [
        torch.optim.SGD([p[side] for _, *p in named], lr=0.2, momentum=0.9) for side in range(2)
    ]
    counts: set[int] = set()
    for step in range(3):
        data = batch(images, step)
        made = method.run({}, ["view", "mask"], data)
        views, hidden = made["view"].double(), made["mask"][0]
        counts |= set(hidden.sum(1).tolist())
        ours = method.run({"view": views}, ["loss"], data)["loss"]
        theirs = by_hand(views[0], hidden)
        assert torch.allclose(ours, theirs, rtol=1e-9)
        for descent, loss in zip(descents, (ours, theirs), strict=True):
            descent.zero_grad()
            loss.backward()
        for name, mine, other in named:
            assert mine.grad is not None, name
            assert other.grad is not None, name
            assert torch.allclose(mine.grad, other.grad, rtol=1e-7, atol=1e-11), name
        for descent in descents:
            descent.step()
        method.after_step()
        by_hand.follow(0.9)
        slow = method.nodes["teacher"].members["encoder"].parameters()
        for mine, other in zip(slow, by_hand.teacher.parameters(), strict=True):
            assert torch.allclose(mine, other, rtol=1e-9, atol=1e-12)
    assert len(counts) > 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes.blocks.affine": True},
        {"nodes.loss.average": "image"},
        {"nodes.loss.beta": 1.0},
        {"nodes.blocks.in": ["teacher.tap1", "teacher.tap3", "teacher.tap4"]},
        {"nodes.target.in": "blocks.2"},
    ],
)
def test_a_wrong_graph_is_seen(
    method: Any, by_hand: Data2Vec, images: Tensor, wrong: dict[str, Any]
) -> None:
    """The comparison can fail: each of these is another loss or another set of weights."""
    taps = {"nodes.teacher.taps": [1, 2, 3, 4]} if "nodes.blocks.in" in wrong else {}
    other: Any = sslgraph.compile(
        sslgraph.load("data2vec", set={**SMALL, **taps, **wrong}), seed=SEED
    )
    if wrong == {"nodes.blocks.affine": True}:
        assert any(True for _ in other.nodes["blocks"].parameters())
        return
    for name, node in other.nodes.items():
        node.load_state_dict(method.nodes[name].state_dict())
    made = [method.run({}, ["view", "mask"], batch(images, step)) for step in range(4)]
    step = next(i for i, m in enumerate(made) if len(set(m["mask"].sum(-1).flatten().tolist())) > 1)
    theirs = by_hand(made[step]["view"][0], made[step]["mask"][0])
    assert torch.allclose(method(batch(images, step)).loss, theirs, rtol=1e-5)
    assert not torch.allclose(other(batch(images, step)).loss, theirs, rtol=1e-4)


def test_the_target_of_two_blocks() -> None:
    """A golden value of the recipe, by hand and from the nodes."""
    blocks = [torch.tensor([[[1.0, 2, 3, 4]]]), torch.tensor([[[4.0, 0, 0, 0]]])]
    norm = make_node("layer_norm", affine=False)
    mean = make_node("mean")(*(norm(block[None]) for block in blocks))
    expected = torch.tensor([0.195206, -0.512281, -0.065069, 0.382143])
    torch.testing.assert_close(mean.flatten(), expected, rtol=0, atol=2e-6)
    expected = torch.tensor([0.581447, -1.525895, -0.193816, 1.138263])
    torch.testing.assert_close(norm(mean).flatten(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(target_of(blocks).flatten(), expected, rtol=0, atol=1e-5)


def test_errors_on_either_side_of_beta() -> None:
    loss = make_node("smooth_l1", beta=2.0)
    for error, expected in {0.5: 0.0625, 1.0: 0.25, 3.0: 2.0}.items():
        found = loss(torch.full((1, 2, 4), error), torch.zeros(1, 2, 4))
        assert found.item() == pytest.approx(expected)


def test_the_teacher_sees_everything_and_drops_nothing(images: Tensor) -> None:
    """Its targets are those of evaluation: no mask, no stochastic depth, no dropout."""
    noisy = {**SMALL, "nodes.encoder.drop_path": 0.9, "nodes.encoder.attention_drop": 0.9}
    method: Any = sslgraph.compile(sslgraph.load("data2vec", set=noisy), seed=SEED)
    views = method.run({}, ["view"], batch(images))["view"]
    fetch = ["teacher.tap4", "encoder.tokens"]
    first, second = (method.run({"view": views}, fetch, batch(images)) for _ in range(2))
    assert torch.equal(first["teacher.tap4"], second["teacher.tap4"])
    assert not torch.equal(first["encoder.tokens"], second["encoder.tokens"])
    teacher = method.nodes["teacher"].members["encoder"]
    made: list[Tensor] = []
    teacher.model.blocks[-1].register_forward_hook(lambda _, __, y: made.append(y))
    teacher.model.eval().forward_features(views[0])
    torch.testing.assert_close(first["teacher.tap4"][0], made[0][:, 1:])


def test_no_gradient_reaches_the_teacher(method: Any, images: Tensor) -> None:
    before = {k: v.clone() for k, v in method.nodes["teacher"].named_buffers()}
    method(batch(images)).loss.backward()
    assert all(p.grad is None for p in method.nodes["teacher"].parameters())
    method.after_step()
    after = dict(method.nodes["teacher"].named_buffers())
    index = [name for name in after if "index" in name]
    assert index, "the table of relative positions is looked up by whole numbers"
    assert all(torch.equal(after[name], before[name]) for name in index)


def test_sizes_of_the_recipe() -> None:
    checked = report(sslgraph.load("data2vec"))
    assert not checked.problems
    sizes = checked.sizes
    assert sizes is not None
    assert sizes.shapes["encoder", "tokens"][2:] == (196, 768)
    assert sizes.shapes["blocks", "y"][0] == 6
    assert sizes.shapes["target", "y"][0] == 1
    assert sizes.parameters["predictor"] == 768 * 768 + 768
    # without the table of 732 x 12 and the mask token: the published encoder's blocks and ends
    block = 12 * 768 * 768 + 13 * 768 - 768 + 2 * 768  # no bias of keys; two scales
    expected = (768 * 768 + 768) + 768 + 12 * block + 2 * 768
    assert sizes.parameters["encoder"] - 732 * 12 - 768 == expected


def test_learning_rate_and_decay_of_the_recipe(method: Any) -> None:
    spec = method.graph.train
    horizon = Horizon(total_steps=800 * 100, steps_per_epoch=100)
    rates = {0: 0.0, 5: 1e-3, 10: 2e-3, 405: (2e-3 + 1e-5) / 2, 800: 1e-5}
    for epoch, expected in rates.items():
        rate = learning_rate(spec.lr, spec.batch_size, epoch * 100, horizon)
        assert rate == pytest.approx(expected, rel=1e-6)
    assert (spec.weight_decay, spec.clip.norm, spec.betas) == (0.05, 3, (0.9, 0.999))
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, horizon)
    decayed = {n for group in groups if group.rule.weight_decay == 0.05 for n in group.names}
    assert {"encoder.mask_token", "predictor.layers.0.weight"} <= decayed
    assert "encoder.model.rel_pos_bias.relative_position_bias_table" in decayed
    assert not any(name.endswith(("bias", "cls_token", "gamma_1")) for name in decayed)


def _pairs(method: Any, hand: Data2Vec) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """Every trained parameter of the graph and the one by hand."""
    theirs = {k: p for k, p in hand.named_parameters() if not k.startswith("teacher.")}
    for node, prefix, cut in (("encoder", "student.", ""), ("predictor", "head.", "layers.0.")):
        for name, parameter in method.nodes[node].named_parameters():
            yield f"{node}.{name}", parameter, theirs.pop(prefix + name.removeprefix(cut))
    assert not theirs
