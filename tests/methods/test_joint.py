"""What several joint-embedding methods have in common, in one table each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sslgraph
from sslgraph.nodes.base import make_node
from sslgraph.train.rates import Horizon
from tests.methods.joint import require_bare_vectors, require_rates, updater_of


@pytest.mark.parametrize(
    ("name", "form", "peak", "decay"),
    [
        ("simclr", "pre", 4.8, 1e-6),  # appendix B.1; lars_optimizer.py and model_util.py
        ("byol", "post", 3.2, 1.5e-6),  # configs/byol.py for 1000 epochs
        ("nnclr", "post", 4.8, 1e-6),  # section 4.1; no code was released
    ],
)
def test_1000_epochs_of_4096_images_with_lars(
    name: str, form: str, peak: float, decay: float
) -> None:
    """Ten epochs of warm-up; half a cosine over the rest of the run, from the peak down to 0."""
    graph = sslgraph.load(name, set={"vars.arch": "test_resnet"})
    run = Horizon.of(graph.train, 1281167)
    assert run == Horizon(1000 * 312, 312)
    expected = {0: 0, 5: peak / 2, 10: peak, 505: peak / 2, 1000: 0}
    require_rates(graph, run, {epoch * 312: rate for epoch, rate in expected.items()})
    spec = graph.train
    assert (spec.optimizer, spec.form, spec.weight_decay) == ("lars", form, decay)
    assert (spec.momentum, spec.trust_coefficient) == (0.9, 1e-3)
    require_bare_vectors(updater_of(sslgraph.compile(graph), 0))


@pytest.mark.parametrize(
    ("name", "preset", "zero"),
    [
        ("simclr", None, True),  # `init_zero` in its resnet.py
        ("moco_v1", None, False),  # torchvision's as it is
        ("moco_v2", None, False),
        ("moco_v3", "resnet50", True),  # `zero_init_residual=True` in main_moco.py
        ("byol", None, True),  # that of haiku
        ("simsiam", None, True),  # `zero_init_residual=True` in builder.py
        ("swav", None, False),  # `zero_init_residual=False` in resnet50.py
        ("deepcluster_v2", None, False),
        ("barlow_twins", None, True),  # `zero_init_residual=True` in main.py
        ("vicreg", None, True),  # the default of its resnet.py is passed True
        ("w_mse", None, False),  # torchvision's as it is
        ("sup_con", None, False),  # the default of its resnet_big.py
    ],
)
def test_residual_blocks_begin_as_published(name: str, preset: str | None, zero: bool) -> None:
    """With a scale of 0 in its last norm a block begins as the identity."""
    args = sslgraph.load(name, preset=preset).nodes["encoder"].settings.get("args") or {}
    kept = {key: value for key, value in args.items() if key == "zero_init_last"}
    axes = {"C": 3, "H": 32, "W": 32}
    node: Any = make_node("encoder", axes=axes, arch="test_resnet", args=kept)
    scales = [block[-1].bn2.weight for block in (node.model.layer1, node.model.layer4)]
    for scale in scales:
        assert torch.equal(scale, torch.zeros_like(scale) if zero else torch.ones_like(scale))
