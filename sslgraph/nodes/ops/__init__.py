"""Augmentation: kornia applies operations, keyed draws give every sample its own parameters.

`TABLE` has every operation by name: the kornia function behind it, its settings, its sampler and
the channels it accepts. `OpSetting` is one entry of a list in YAML; `apply_ops` makes a training
view of a batch, `evaluate_ops` the deterministic one.
"""

from sslgraph.nodes.ops import color, crop, filters, geometry, normalize
from sslgraph.nodes.ops.base import TABLE, Op
from sslgraph.nodes.ops.pipeline import (
    Step,
    apply_ops,
    evaluate_ops,
    op_channels,
    sample_ops,
    to_float,
    wrong_channels,
    wrong_order,
    wrong_views,
)
from sslgraph.nodes.ops.setting import OpSetting, parse_ops

FAMILIES = (crop, geometry, color, filters, normalize)  # importing a family fills the table

__all__ = [
    "TABLE",
    "Op",
    "OpSetting",
    "Step",
    "apply_ops",
    "evaluate_ops",
    "op_channels",
    "parse_ops",
    "sample_ops",
    "to_float",
    "wrong_channels",
    "wrong_order",
    "wrong_views",
]
