"""SimCLR as a graph against SimCLR written by hand: of equal views to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from tests.methods import joint
from tests.methods.simclr_by_hand import PUBLISHED, ROUNDING, SimCLR, make_views

SEED = 3
SMALL = {"vars.arch": "test_resnet", "vars.size": 24, "vars.hidden": 32, "vars.dim": 16}
VIEW = {**PUBLISHED, "size": 24}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return joint.pictures(12, 28)


@pytest.fixture(scope="module")
def method() -> Any:
    return sslgraph.compile(sslgraph.load("simclr", set=SMALL), seed=SEED)


@pytest.fixture(scope="module")
def by_hand(method: Any) -> SimCLR:
    hand = SimCLR("test_resnet", joint.width_of(method), 32, 16, temperature=0.1)
    joint.share_weights(method, {"encoder": hand.encoder, "projector": hand.projector})
    return hand.train()


def test_views_are_those_of_the_documented_formula(method: Any, images: Tensor) -> None:
    made = method.run({"batch.image": images}, ["views"], {"index": torch.arange(12)})["views"]
    expected = make_views(images.float() / 255, SEED, "views", VIEW)
    torch.testing.assert_close(made.flatten(0, 1), expected, rtol=0, atol=ROUNDING)


def test_loss_and_gradients_are_equal_over_three_steps(
    method: Any, by_hand: SimCLR, images: Tensor
) -> None:
    parts = {"encoder": by_hand.encoder, "projector": by_hand.projector}
    pairs = joint.named_pairs(method, parts)
    descents = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (method, by_hand)]
    for _ in range(3):
        step = method({"image": images, "index": torch.arange(12)})
        loss = by_hand(joint.views_of(method, images).flatten(0, 1))
        assert torch.equal(step.loss, loss)
        for descent, value in zip(descents, (step.loss, loss), strict=True):
            descent.zero_grad()
            value.backward()
        for name, ours, theirs in pairs:
            assert ours.grad is not None
            assert theirs.grad is not None
            assert torch.equal(ours.grad, theirs.grad), name
        for descent in descents:
            descent.step()
        method.after_step()
    statistics = joint.network(method, "encoder").buffers(), by_hand.encoder.buffers()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*statistics, strict=True))


@pytest.mark.parametrize(
    ("hidden", "expected"), [([2048], 4_460_672), ([2048, 2048], 8_659_072)], ids=["v1", "v2"]
)
def test_sizes_of_the_published_heads(hidden: list[int], expected: int) -> None:
    """No layer has a bias and the last norm no shift: `projection_head` of `model_util.py`.

    Two layers are those of the paper, three those of its second version.
    """
    parameters = joint.sizes_of("simclr", set={"nodes.projector.hidden": hidden}).parameters
    assert parameters["encoder"] == 23_508_032
    assert parameters["projector"] == expected


def test_the_recipe() -> None:
    """Appendix B.1 of the paper; `lars_optimizer.py` and `model_util.py`."""
    joint.require_lars_of_4096_images("simclr", "pre", 4.8, 1e-6)


@pytest.mark.parametrize(("batch", "rate"), [(4096, 4.8), (1024, 2.4), (256, 1.2)])
def test_the_rate_by_the_root_of_the_batch(batch: int, rate: float) -> None:
    """The paper's appendix B.1: 0.075 times the root of the batch, not of the batch / 256."""
    change: dict[str, Any] = {"train.lr": {"base": 0.075, "per": "sqrt 1"}}
    spec = sslgraph.load("simclr", set={**change, "train.batch_size": batch}).train
    assert spec.lr.scaled(spec.batch_size) == pytest.approx(rate)


def test_no_process_has_statistics_of_its_own() -> None:
    """With those of a few pairs alone a view would know its other one by them."""
    graph = sslgraph.load("simclr")
    for name in ("encoder", "projector"):
        assert graph.nodes[name].settings["batch_norm"] == {"per": "none", "ranks": "all"}


def test_first_weights_of_the_head() -> None:
    """`linear_layer` in `model_util.py` draws them normal, of standard deviation 0.01."""
    fresh = sslgraph.compile(sslgraph.load("simclr", set={**SMALL, "vars.hidden": 512}), seed=SEED)
    weights = [p for p in fresh.nodes["projector"].parameters() if p.ndim == 2]
    assert len(weights) == 2
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.01, rel=0.03)
