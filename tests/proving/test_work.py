"""FLOP of a graph: those of the products in it, whatever passes no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sslgraph
from sslgraph.proving.case import Case
from sslgraph.proving.work import Work

ROWS, IN, OUT = 5, 7, 3


def test_a_linear_layer_forward_and_backward() -> None:
    """Each of three products multiplies and adds rows x in x out times: y, dx and dW."""
    layer = nn.Linear(IN, OUT, device="meta")
    x = torch.empty(ROWS, IN, device="meta", requires_grad=True)
    with Work() as work:
        layer(x).sum().backward()
    assert work.flops == 3 * 2 * ROWS * IN * OUT


def test_as_many_as_pytorch_counts() -> None:
    """With convolutions and attention."""
    layers: Any = nn.ModuleDict(
        {
            "patches": nn.Conv2d(3, 8, 4, 4, device="meta"),
            "block": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, device="meta"),
        }
    )

    def run() -> None:
        x = torch.empty(2, 3, 16, 16, device="meta")
        tokens = layers["patches"](x).flatten(2).mT
        layers["block"](tokens).sum().backward()

    with Work() as work:
        run()
    with FlopCounterMode(display=False) as counter:
        run()
    assert work.flops == counter.get_total_flops() > 0


def test_a_slow_copy_may_take_what_has_a_gradient() -> None:
    """As where a teacher's head sees the student's tokens."""
    graph = sslgraph.load("dinov2", preset="tiny", set={"nodes.patch_teacher.in": "hidden"})
    assert sslgraph.check(graph) == []
    assert Case.of(graph).batch
