"""What all joint-embedding methods have to say, in one table."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sslgraph
from sslgraph.nodes.base import make_node


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
