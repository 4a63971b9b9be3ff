"""First weights from a file: of a whole node, of a timm model, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import sslgraph

GRAPH: dict[str, Any] = {
    "sslgraph": 1,
    "name": "toy",
    "nodes": {
        "views": {"use": "augment", "in": "batch.image", "views": 2, "size": 32},
        "encoder": {"use": "encoder", "in": "views", "arch": "test_resnet"},
        "loss": {"use": "nt_xent", "in": "encoder.embedding"},
    },
    "minimize": {"loss": 1},
    "outputs": {"embedding": "encoder.embedding"},
}


def _with_weights(path: Path, node: str = "encoder") -> sslgraph.Graph:
    return sslgraph.load(GRAPH, set={f"nodes.{node}.weights": str(path)})


def test_weights_of_a_timm_model_arrive(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    method = sslgraph.compile(_with_weights(tmp_path / "model.safetensors"))
    for name, value in method.nodes["encoder"].get_submodule("model").state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_weights_of_a_node_arrive(tmp_path: Path) -> None:
    first = sslgraph.compile(sslgraph.load(GRAPH), seed=1)
    save_file(first.nodes["encoder"].state_dict(), tmp_path / "node.safetensors")
    second = sslgraph.compile(_with_weights(tmp_path / "node.safetensors"), seed=2)
    for name, value in second.nodes["encoder"].state_dict().items():
        assert torch.equal(value, first.nodes["encoder"].state_dict()[name]), name


@pytest.mark.parametrize("shuffled", ["first", "second"])
def test_how_often_batches_were_shuffled_is_no_weight(tmp_path: Path, shuffled: str) -> None:
    rule = {"nodes.encoder.batch_norm": {"ranks": "shuffled", "groups": 2}}
    path = tmp_path / "node.safetensors"
    first = sslgraph.compile(sslgraph.load(GRAPH, set=rule if shuffled == "first" else {}))
    assert ("shuffles" in first.nodes["encoder"].state_dict()) == (shuffled == "first")
    save_file(first.nodes["encoder"].state_dict(), path)
    settings = {"nodes.encoder.weights": str(path), **(rule if shuffled == "second" else {})}
    second = sslgraph.compile(sslgraph.load(GRAPH, set=settings), seed=2)
    for name, value in second.nodes["encoder"].get_submodule("model").state_dict().items():
        assert torch.equal(value, first.nodes["encoder"].state_dict()[f"model.{name}"]), name


@pytest.mark.parametrize("fault", ["gone", "text", "short", "shape", "none"])
def test_what_does_not_fit_is_a_problem_at_its_line(tmp_path: Path, fault: str) -> None:
    path, node = tmp_path / "model.safetensors", "encoder"
    state = dict(timm.create_model("test_resnet", num_classes=0).state_dict())
    name = "conv1.0.weight" if "conv1.0.weight" in state else next(iter(state))
    if fault == "short":
        del state[name]
    if fault == "shape":
        state[name] = state[name][:1].clone()
    save_file(state, path)
    if fault == "text":
        path.write_text("no weights at all")
    if fault == "gone":
        path.unlink()
    if fault == "none":
        node = "loss"
    (problem,) = sslgraph.check(_with_weights(path, node))
    assert problem.code == "E406"
    expected = {
        "gone": f"no file {path}",
        "text": "model.safetensors is no safetensors file",
        "short": f"model.safetensors does not fit: missing: model.{name}",
        "shape": f"model.safetensors does not fit: of another shape: model.{name} [1, ",
        "none": "the node has no weights",
    }
    assert problem.notes[0].startswith(expected[fault])
