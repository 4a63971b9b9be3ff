"""Emitted source against the walk: bit-equal for every graph, feed and fetch."""

from __future__ import annotations

import builtins
import itertools
import keyword
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.checks.references import DATA, Port
from sslgraph.emit import emit
from sslgraph.loading import load, shipped_methods
from sslgraph.method import Method
from sslgraph.walk import walk
from tests.toys import TWO_VIEWS, compiled, graph, images

GRAPHS: dict[str, dict[str, Any]] = {
    "two views": TWO_VIEWS,
    "slices and lists": {
        **TWO_VIEWS,
        "first": {"use": "toy_scale", "in": "pixels.mean.0"},
        "both": {"use": "toy_scale", "in": {"x": ["first", "pixels.mean.1:", "head"]}},
        "loss": {"use": "nt_xent", "in": ["both.0", "both.1"]},
        "rest": {"use": "toy_pull", "in": {"a": "both.1:3", "b": "head.0:2"}},
    },
    "optional inputs": {
        **TWO_VIEWS,
        "head": {"use": "toy_scale", "in": {"x": "pixels"}},
        "shifted": {"use": "toy_scale", "in": {"shift": "head", "x": "pixels"}},
        "loss": {"use": "toy_pull", "in": {"a": "shifted"}},
    },
    "several outputs": {
        **TWO_VIEWS,
        "spread": {"use": "toy_scale", "in": "pixels.spread"},
        "loss": {"use": "toy_pull", "in": {"a": "spread"}},
        "third": {"use": "toy_pull", "in": {"a": "head"}},
        "other": {"use": "toy_pull", "in": {"a": "pixels.mean"}},
    },
    "state": {
        **TWO_VIEWS,
        "memory": {"use": "toy_memory", "in": "head"},
        "far": {"use": "toy_far", "in": {"a": "head", "items": "memory"}},
        "ticks": {"use": "toy_ticks"},
        "paced": {"use": "toy_pull", "in": {"a": "head", "b": "stopped"}},
        "stopped": {"use": "stop_grad", "in": "head.1"},
    },
}


def losses(nodes: dict[str, Any]) -> dict[str, float]:
    kinds = ("nt_xent", "toy_pull", "toy_far")
    return {name: 1.0 for name, node in nodes.items() if node["use"] in kinds}


def outputs(nodes: dict[str, Any]) -> dict[str, str]:
    """Every node that is no loss, so that nothing is left out."""
    names = {"toy_pixels": ".mean"}
    return {
        name: name + names.get(node["use"], "")
        for name, node in nodes.items()
        if name not in losses(nodes)
    }


def made(nodes: dict[str, Any]) -> Method:
    return compiled(nodes, losses(nodes), outputs=outputs(nodes))


def ports(method: Method) -> list[Port]:
    return [(s.name, port) for s in method.plan.steps for port in s.declaration.outputs]


def data() -> dict[Port, Tensor]:
    return {
        (DATA, "image"): images().unsqueeze(0),
        (DATA, "index"): torch.arange(5).unsqueeze(0),
    }


def emitted(method: Method, feed: dict[Port, Tensor], fetch: list[Port], evaluating: bool) -> Any:
    wires = [method.plan.wire(f"{node}.{port}") for node, port in fetch]
    given = [port for port in feed if port[0] != DATA]
    outcomes = []
    state = {key: value.clone() for key, value in method.state_dict().items()}
    for regions in (False, True):
        method.load_state_dict(state)  # as before: shuffled batches go by a counter
        source = emit(method.plan, given, wires, evaluating=evaluating, regions=regions)
        values = source.function()(method, *(feed[port] for port in source.feed))
        outcomes.append(dict(zip(fetch, values, strict=True)))
    return outcomes


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_port_is_equal_to_the_walk(name: str, evaluating: bool) -> None:
    method = made(GRAPHS[name]).train(not evaluating)
    if evaluating and "loss" in method.plan.losses:
        everything = [p for p in ports(method) if p[0] not in losses(GRAPHS[name])]
    else:
        everything = ports(method)
    expected = walk(method.plan, method.nodes, data(), everything, evaluating=evaluating)
    for found in emitted(method, data(), everything, evaluating):
        assert all(torch.equal(found[port], value) for port, value in expected.items())


@pytest.mark.parametrize("name", GRAPHS)
def test_from_any_port_to_any_port(name: str) -> None:
    method = made(GRAPHS[name])
    everything = ports(method)
    values = walk(method.plan, method.nodes, data(), everything)
    for fed, wanted in itertools.product(everything, everything):
        feed = {**data(), fed: values[fed] * 1.5}
        expected = walk(method.plan, method.nodes, feed, [wanted])
        for found in emitted(method, feed, [wanted], evaluating=False):
            assert torch.equal(found[wanted], expected[wanted]), (fed, wanted)


def test_a_fed_port_is_not_computed_again() -> None:
    method = made(GRAPHS["several outputs"])
    fed = torch.full((2, 5, 4), 2.0)
    found = method.run({"pixels.mean": fed}, ["other", "pixels.mean", "loss"], {"image": images()})
    assert found["other"].item() == 4.0
    assert torch.equal(found["pixels.mean"], fed)
    assert found["loss"].item() > 0


HARD_NAMES = [
    *("type", "half", "forward", "n", "w", "torch", "print", "self", "joined", "region_0"),
    *("training", "nodes", "clock", "weights", "parameters", "none", "match", "case", "modules"),
    *("batch_image", "batch_index", "pixels_mean", "len", "id", "t_destination", "add_module"),
]


@pytest.mark.parametrize("name", HARD_NAMES)
def test_any_name_of_a_node(name: str) -> None:
    nodes = {key: dict(node) for key, node in TWO_VIEWS.items()}
    nodes[name] = nodes.pop("head")
    nodes["loss"] = {"use": "nt_xent", "in": name}
    other, method = compiled(TWO_VIEWS), compiled(nodes)
    state = other.state_dict()
    method.load_state_dict({k.replace("nodes.head.", f"nodes.{name}."): state[k] for k in state})
    batch = {"image": images()}
    assert torch.equal(method(batch).loss, other(batch).loss)
    found = method.outputs  # evaluation and regions know the name too
    assert found is not None
    source = emit(method.plan, (), [method.plan.wire("loss")], regions=True, writing=True)
    values = source.function()(method, *(data()[port] for port in source.feed))
    assert torch.equal(values[0], other(batch | {"index": torch.arange(5)}).loss)
    method.compile(backend="eager")
    assert method(batch | {"index": torch.arange(5)}).loss.isfinite()


def test_source_is_readable_and_frees_values() -> None:
    nodes = {
        **TWO_VIEWS,
        "queue": {"use": "toy_memory", "in": "head.1"},
        "far": {"use": "toy_far", "in": {"a": ["head.0", "head.1"], "items": "queue"}},
    }
    method = compiled(nodes, {"loss": 1.0, "far": 0.5})
    assert method.code == (
        "def forward(self, batch_image, batch_index):\n"
        "    n = self.nodes._modules\n"
        '    views = n["views"](batch_image, batch_index)\n'
        "    del batch_image, batch_index\n"
        '    pixels_mean, _ = n["pixels"](views)\n'
        "    del views, _\n"
        '    head = n["head"](pixels_mean, None)\n'
        "    del pixels_mean\n"
        '    loss = n["loss"](head)\n'
        '    queue = n["queue"]()\n'
        '    far = n["far"](torch.cat([head[0:1], head[1:2]]), queue)\n'
        "    del queue\n"
        "    with torch.no_grad():\n"
        '        n["queue"].write(x=head[1:2])\n'
        "    return (loss, far)\n"
    )


def test_values_are_freed_as_the_forward_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the loss runs, only what it reads is alive."""
    import gc
    import weakref

    method = compiled(TWO_VIEWS)
    alive: dict[str, Any] = {}
    for name in ("views", "pixels"):
        method.nodes[name].register_forward_hook(
            lambda module, args, out, name=name: alive.update(
                {name: [weakref.ref(t) for t in ([out] if isinstance(out, Tensor) else out)]}
            )
        )
    seen: list[bool] = []

    def look(module: object, args: object) -> None:
        gc.collect()
        seen.extend(ref() is None for refs in alive.values() for ref in refs)

    method.nodes["loss"].register_forward_pre_hook(look)
    with torch.no_grad():
        method({"image": images()})
    assert seen == [True, True, True]


def test_slices_of_what_was_fed_in_evaluation() -> None:
    method = made(GRAPHS["slices and lists"]).eval()
    fed = torch.randn(2, 5, 4)
    found = method.run({"pixels.mean": fed}, ["both"])["both"]
    assert found.shape == (4, 5, 4)
    one = method.run({"pixels.mean": fed[:1]}, ["both"])["both"]
    assert one.shape == (3, 5, 4)  # first, the one view of pixels, head


def test_no_word_of_the_file_but_identifiers_reaches_the_source() -> None:
    hostile = "x'); import os; os.abort(); ('"
    nodes = {**TWO_VIEWS, "loss": {"use": "nt_xent", "in": "head"}}
    made_of = graph(nodes, title=hostile, summary=hostile, family=hostile)
    method = compiled(nodes)
    source = emit(method.plan, (), [method.plan.wire("loss")]).code
    assert hostile not in source
    assert made_of.title == hostile
    for step in method.plan.steps:
        assert step.name.isidentifier()
        assert not keyword.iskeyword(step.name)
    assert "import" not in source
    assert not set(dir(builtins)) & set(source.replace("(", " ").split())


@pytest.mark.parametrize("name", sorted(shipped_methods()))
@pytest.mark.parametrize("evaluating", [False, True])
def test_shipped_methods(name: str, evaluating: bool) -> None:
    """Every port of every method, in training and evaluation, and the fetched outputs."""
    loaded = load(name, preset="tiny")
    method = sslgraph.compile(loaded).train(not evaluating)
    count = loaded.document.data.get("vars", {}).get("part", 8)  # what is whitened has whole parts
    pictures = torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    place = torch.arange(count).unsqueeze(0)
    feed = {(DATA, "image"): pictures.unsqueeze(0), (DATA, "label"): place % 3}
    feed |= {(DATA, "index"): place, (DATA, "sample"): place}
    fetch = [port for port in ports(method) if not (evaluating and port[0] in method.plan.losses)]
    state = {key: value.clone() for key, value in method.state_dict().items()}
    expected = walk(method.plan, method.nodes, feed, fetch, evaluating=evaluating)
    if evaluating:  # nothing was written
        assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    method.load_state_dict(state)
    for found in emitted(method, feed, fetch, evaluating):
        for port, value in expected.items():
            assert torch.equal(found[port], value), port
