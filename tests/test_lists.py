"""Lists that a node takes as they are: one input a reference, for checks and both readers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sslgraph
from sslgraph import Node
from sslgraph.emit import emit
from sslgraph.lists import split, unjoined
from sslgraph.method import Method
from sslgraph.nodes.base import make_node
from sslgraph.ports import In, Out
from sslgraph.registry import find
from sslgraph.walk import walk

VIEWS = {"use": "augment", "in": "batch.image", "views": 2, "size": 32}
ENCODER = {
    "use": "encoder",
    "in": "views",
    "arch": "vit_tiny_patch16_224",
    "args": {"embed_dim": 24, "depth": 3, "num_heads": 2},
    "taps": [1, 2],
}


def graph(nodes: dict[str, Any]) -> sslgraph.Graph:
    loss = {"use": "mse", "in": {"prediction": "encoder.embedding", "target": "encoder.embedding"}}
    return sslgraph.load(
        {
            "sslgraph": 1,
            "nodes": {"views": VIEWS, "encoder": ENCODER, **nodes, "loss": loss},
            "minimize": {"loss": 1.0},
            "outputs": {name: name for name in nodes},
        }
    )


def errors(nodes: dict[str, Any]) -> list[Any]:
    return [p for p in sslgraph.check(graph(nodes)) if p.severity == "error"]


def test_each_reference_has_an_input_of_its_own() -> None:
    mean, wires = split(find("mean"), {"": ("a", "b")})
    assert wires == {"x0": ("a",), "x1": ("b",)}
    assert list(mean.inputs) == ["x0", "x1"]
    assert {str(port) for port in mean.inputs.values()} == {str(find("mean").inputs["x"])}
    assert mean.port("x") == "x0"
    assert split(find("mean"), {"x": ("a", "b")})[1] == wires
    assert split(find("mean"), {"": ()})[0] is find("mean")
    concat = unjoined(find("concat"), 2)
    assert [" ".join(port.axes) for port in concat.inputs.values()] == [
        "V B ... D0",
        "V B ... D1",
    ]


@pytest.mark.parametrize("evaluating", [False, True])
def test_walk_and_emitted_source_agree(evaluating: bool) -> None:
    nodes = {
        "y": {"use": "mean", "in": ["encoder.tap1", "encoder.tap2", "encoder.tokens"]},
        "half": {"use": "mean", "in": ["encoder.embedding.0", "encoder.embedding.1"]},
        "wide": {"use": "concat", "in": ["half", "encoder.embedding"]},
    }
    method: Method = sslgraph.compile(graph(nodes))
    method.train(not evaluating)
    batch = {("batch", "image"): torch.rand(1, 4, 3, 40, 40)}
    batch["batch", "index"] = torch.arange(4)[None]
    fetch = [method.plan.wire(text) for text in ("y", "half", "wide")]
    ports = [wire.source for wire in fetch]
    walked = walk(method.plan, method.nodes, batch, ports, evaluating=evaluating)
    emitted = emit(method.plan, batch, fetch, evaluating=evaluating)
    made = emitted.function()(method, *(batch[port] for port in emitted.feed))
    for port, value in zip(ports, made, strict=True):
        assert torch.equal(walked[port], value)
    views = 1 if evaluating else 2
    assert [tuple(value.shape) for value in made] == [
        (views, 4, 4, 24),
        (1, 4, 24),
        (views, 4, 48),
    ]


def test_what_comes_out_is_the_mean_and_the_row_of_both() -> None:
    nodes = {
        "y": {"use": "mean", "in": ["encoder.tap1", "encoder.tap2", "encoder.tokens"]},
        "half": {"use": "mean", "in": ["encoder.embedding.0", "encoder.embedding.1"]},
        "wide": {"use": "concat", "in": ["half", "encoder.embedding"]},
    }
    method = sslgraph.compile(graph(nodes))
    names = ["encoder.tap1", "encoder.tap2", "encoder.tokens", "encoder.embedding"]
    fetch = [*names, "y", "half", "wide"]
    made = method.run({"batch.image": torch.rand(4, 3, 40, 40)}, fetch)
    stacked = torch.stack([made[name] for name in names[:3]])
    torch.testing.assert_close(made["y"], stacked.mean(0))
    rows = made["encoder.embedding"]
    torch.testing.assert_close(made["half"], rows.mean(0, keepdim=True))
    torch.testing.assert_close(
        made["wide"], torch.cat([rows.mean(0, keepdim=True).expand_as(rows), rows], -1)
    )


def test_a_copy_repeats_a_node_with_a_list() -> None:
    nodes = {
        "y": {"use": "mean", "in": ["encoder.tap1", "encoder.tap2"]},
        "wide": {"use": "shared", "of": "y", "in": {"x0": "encoder.tap2", "x1": "encoder.tap2"}},
    }
    method = sslgraph.compile(graph(nodes))
    made = method.run({"batch.image": torch.rand(2, 3, 40, 40)}, ["wide", "encoder.tap2"])
    assert torch.equal(made["wide"], made["encoder.tap2"])


def test_kinds_do_not_mix() -> None:
    (problem,) = errors({"y": {"use": "mean", "in": ["encoder.tokens", "encoder.embedding"]}})
    assert problem.code == "E211"
    assert problem.title == "encoder.embedding is of another kind than what y takes beside it"
    assert (problem.expected, problem.got[:9]) == ("tokens", "embedding")


def test_widths_and_places_have_to_agree() -> None:
    narrow = {"use": "projector", "in": "encoder.tokens", "hidden": [], "out": 8}
    nodes = {"narrow": narrow, "y": {"use": "mean", "in": ["encoder.tokens", "narrow"]}}
    (problem,) = errors(nodes)
    assert (problem.code, problem.title) == ("E204", "axis D of y.x1 does not match")
    nodes["y"] = {"use": "mean", "in": ["encoder.tokens", "encoder.sequence"]}
    (problem,) = errors(nodes)
    assert (problem.code, problem.title) == ("E404", "y: mean takes inputs of one shape")
    assert (problem.expected, problem.got) == ("views of [4, 24], as the first one has", "[5, 24]")


def test_a_node_without_its_list() -> None:
    (problem,) = errors({"y": {"use": "mean"}})
    assert (problem.code, problem.title) == ("E205", "y (mean) has no wire into x")


def test_a_list_is_the_only_input() -> None:
    with pytest.raises(TypeError, match="a variadic input is the only input"):

        class _Two(Node, use="two_lists"):
            x = In("embedding", "V B D", variadic="alike")
            z = In("embedding", "V B D")
            y = Out("embedding", "V B D")

            def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
                return x


def test_pooled_places() -> None:
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(make_node("pool")(x), x.mean(2))
    assert torch.equal(make_node("pool", how="max")(x), x.amax(2))
