"""The meta run: faults of a node type become one problem at its node, sizes are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslgraph.check_sizes import META_BATCH, spelled
from sslgraph.checking import check, report
from sslgraph.errors import Problem
from sslgraph.loading import load
from sslgraph.nodes.base import Node
from sslgraph.ports import In, Out
from tests.toys import TWO_VIEWS, graph


def problems(nodes: dict[str, Any], **rest: Any) -> list[Problem]:
    return check(graph(nodes, **rest))


class PerImage(Node):
    """A base without a name."""

    x = In("embedding", "B D")
    y = Out("embedding", "B D")


def between(use: str) -> dict[str, Any]:
    """The usual graph with a node of this type before the loss."""
    return {**TWO_VIEWS, "odd": {"use": use, "in": "head"}, "loss": {"use": "nt_xent", "in": "odd"}}


def test_a_node_that_cannot_run() -> None:
    class Failing(PerImage, use="failing"):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(3, 3, device=x.device)

    (found,) = problems(between("failing"))
    assert str(found).splitlines() == [
        "<dict>: error[E401]: odd (failing) can't run on what comes in",
        " |",
        " | nodes.odd: {...}",
        " |       ^^^",
        " = got     : x = [2 B 4]",
        f" = note: {found.notes[0]}",
    ]
    assert found.notes[0].startswith("RuntimeError: ")
    assert "[3, 3]" in found.notes[0]


def test_a_node_that_cannot_be_built() -> None:
    class Unbuilt(PerImage, use="unbuilt"):
        def build(self, D: int) -> None:
            raise RuntimeError("no such layer\nmore")

        def forward(self, x: Tensor) -> Tensor:
            return x

    (found,) = problems(between("unbuilt"))
    assert (found.code, found.title) == ("E403", "odd (unbuilt) can't be built")
    assert (found.got, found.notes) == ("V = 2, D = 4", ("RuntimeError: no such layer",))


def test_an_output_that_is_not_declared() -> None:
    class Wide(PerImage, use="too_wide"):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x], -1)

    (found,) = problems(between("too_wide"))
    assert (found.code, found.title) == ("E405", "odd.y is not what too_wide declares")
    assert (found.expected, found.got) == ("embedding[V B D]", "[2 B 8]")
    assert found.notes == ("this is a fault of the node type (tests.test_check_sizes)",)


def test_a_part_that_gets_no_gradient() -> None:
    class Partly(PerImage, use="partly"):
        def build(self, D: int) -> None:
            self.used, self.idle = nn.Linear(D, D), nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x)
            return y

    (found,) = problems(between("partly"))
    assert (found.code, found.title) == ("E302", "no gradient reaches a part of odd")
    assert found.got == "odd.idle.weight, odd.idle.bias"
    untrained = between("partly")
    untrained["odd"]["train"] = False
    assert problems(untrained) == []


def test_a_wrong_axis_names_where_the_right_one_came_from() -> None:
    class Pair(Node, use="pair"):
        a = In("embedding", "V B D")
        b = In("embedding", "V B D")
        y = Out("embedding", "V B D")

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    nodes = {**TWO_VIEWS, "pair": {"use": "pair", "in": {"a": "head", "b": "pixels.spread"}}}
    nodes["loss"] = {"use": "nt_xent", "in": "pair"}
    (found,) = problems(nodes)
    assert (found.code, found.title) == ("E204", "axis D of pair.b does not match")
    assert (found.expected, found.got) == ("D = 4 (from pair.a)", "D = 3 (from pixels.spread)")
    assert found.under == "embedding[2 B 3]"


def test_a_fault_is_not_repeated_downstream() -> None:
    class Failing(PerImage, use="failing_again"):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("broken")

    nodes = between("failing_again")
    nodes["after"] = {"use": "toy_scale", "in": "odd"}
    nodes["loss"] = {"use": "nt_xent", "in": "after"}
    assert [p.code for p in problems(nodes)] == ["E401"]


def test_the_batch_stands_first_or_behind_the_views() -> None:
    """Eleven views or tokens are not another batch, though the meta run has eleven images."""
    assert spelled((META_BATCH, META_BATCH, META_BATCH, 8)) == ("11", "B", "11", "8")
    assert spelled((META_BATCH, 3, META_BATCH)) == ("B", "3", "11")
    assert spelled((1, 65536, 256)) == ("1", "65536", "256")
    assert spelled(()) == ()


def test_sizes_of_a_method() -> None:
    found = report(graph(TWO_VIEWS))
    assert found.problems == []
    assert found.sizes is not None
    assert found.sizes.shapes["pixels", "mean"] == (2, 11, 4)
    assert found.sizes.axes["head"]["D"] == 4
    assert found.sizes.parameters == {"views": 0, "pixels": 16, "head": 20, "loss": 0}


@pytest.mark.parametrize("preset", [None, "tiny"])
def test_simclr_is_sound(preset: str | None) -> None:
    found = report(load("simclr", preset=preset))
    assert found.problems == []
    assert found.sizes is not None
    if preset is None:  # parameters of the projector, recipes of the paper: 2048-2048-128, no bias
        assert found.sizes.parameters["projector"] == 4_460_672


def test_a_large_model_needs_no_memory() -> None:
    """A ViT-g of a billion parameters, and a crop that does not fit it, found on a laptop."""
    nodes: dict[str, Any] = {
        "views": {"use": "augment", "in": "batch.image", "size": 224},
        "encoder": {"use": "encoder", "in": "views", "arch": "vit_giant_patch14_224"},
        "loss": {"use": "nt_xent", "in": "encoder.embedding"},
    }
    found = report(graph(nodes))
    assert found.problems == []
    assert found.sizes is not None
    assert found.sizes.parameters["encoder"] > 1_000_000_000
    nodes["views"]["size"] = 230
    (wrong,) = problems(nodes)
    assert (wrong.code, wrong.expected) == ("E404", "sides that are multiples of 14")
