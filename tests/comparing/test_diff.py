"""What `diff` finds, on graphs of which the differences were put in by hand."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import sslgraph
from sslgraph import In, Node, Out
from sslgraph.comparing import OneSided, Renamed, SettingChange, Value, WireChange

ROOT = Path(__file__).resolve().parents[2]
Data = dict[str, Any]

BASE: Data = {
    "sslgraph": 1,
    "name": "base",
    "vars": {"dim": 8},
    "nodes": {
        "views": {
            "use": "augment",
            "in": "batch.image",
            "size": 24,
            "ops": [{"crop": [0.3, 1]}, {"flip": 0.5}, {"jitter": [0.4, 0.4, 0.2, 0.1], "p": 0.8}],
        },
        "encoder": {"use": "encoder", "in": "views", "arch": "test_resnet"},
        "projector": {
            "use": "projector",
            "in": "encoder.embedding",
            "hidden": [16],
            "out": "$dim",
        },
        "loss": {"use": "nt_xent", "in": "projector", "temperature": 0.1},
    },
    "minimize": {"loss": 1.0},
    "outputs": {"embedding": "encoder.embedding"},
    "train": {"steps": 2, "lr": {"base": 0.3, "warmup": "10 epochs"}},
}
HEAD = {"use": "predictor", "in": "projector", "hidden": [16], "out": 8}


def changed(change: Callable[[Data], object]) -> sslgraph.Graph:
    """The base with something done to it."""
    data = copy.deepcopy(BASE)
    change(data)
    return sslgraph.load(data)


def nodes(**changes: Data | None) -> sslgraph.Graph:
    """The base with keys of some nodes changed; None takes a node out, `use` makes it anew."""

    def change(data: Data) -> None:
        for name, keys in changes.items():
            if keys is None:
                del data["nodes"][name]
            else:
                old = {} if "use" in keys else data["nodes"][name]
                data["nodes"][name] = {**old, **keys}

    return changed(change)


@pytest.fixture
def base() -> sslgraph.Graph:
    return sslgraph.load(BASE)


def setting(path: str, before: object, after: object) -> SettingChange:
    """A change of written values; None where there is none."""
    sides = [None if value is None else Value(value) for value in (before, after)]
    words = [int(word) if word.isdigit() else word for word in path.split(".")]
    return SettingChange(tuple(words), sides[0], sides[1])


def test_a_graph_is_equal_to_itself(base: sslgraph.Graph) -> None:
    found = sslgraph.diff(base, sslgraph.load(BASE))
    assert found.equal
    assert str(found) == "base and base: no difference"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["nodes"]["loss"].update(temperature=1e-1),
        lambda data: data["minimize"].update(loss=1),
        lambda data: data["nodes"].update(loss=dict(reversed(data["nodes"]["loss"].items()))),
        lambda data: data.update(nodes=dict(reversed(data["nodes"].items()))),
        lambda data: data["nodes"]["views"]["ops"].__setitem__(
            2, {"p": 0.8, "jitter": [0.4, 0.4, 0.2, 0.1]}
        ),
        lambda data: data["nodes"]["projector"].update(out=8) or data.pop("vars"),
        lambda data: (
            data.update(vars={"width": 8}) or data["nodes"]["projector"].update(out="$width")
        ),
        lambda data: data.update(title="Another", summary="Said otherwise.", name="other"),
        lambda data: data.update(presets={"tiny": {"train": {"steps": 1}}}),
        lambda data: data["nodes"]["loss"].update({"in": {"x": "projector"}}),
        lambda data: data["nodes"]["loss"].update({"in": ["projector.y"]}),
        lambda data: data["nodes"]["views"].update(views=2),  # the default
        lambda data: data["nodes"]["loss"].update(train=True),
        lambda data: data["train"]["lr"].update(per=256),
        lambda data: data["train"].update(batch_norm="all", clip=None),
    ],
)
def test_another_way_to_write_it_is_no_difference(
    base: sslgraph.Graph, change: Callable[[Data], object]
) -> None:
    assert sslgraph.diff(base, changed(change)).equal
    assert sslgraph.diff(changed(change), base).equal


def test_an_added_node_is_removed_the_other_way_round(base: sslgraph.Graph) -> None:
    other = nodes(predictor=HEAD, loss={"in": "predictor"})
    there, back = sslgraph.diff(base, other), sslgraph.diff(other, base)
    written = {key: value for key, value in HEAD.items() if key != "use"}
    assert there.added == back.removed == (OneSided("predictor", "predictor", written),)
    assert not any((there.removed, back.added, there.renamed))
    assert there.wires == (WireChange("loss", "x", ("projector",), ("predictor",)),)
    assert back.wires == (WireChange("loss", "x", ("predictor",), ("projector",)),)
    assert not any((there.settings, there.run))


@pytest.mark.parametrize(
    ("wires", "before", "after"),
    [
        ("encoder.embedding.0", ("encoder.embedding",), ("encoder.embedding.0",)),
        (
            ["encoder.embedding", "encoder.embedding"],
            ("encoder.embedding",),
            ("encoder.embedding", "encoder.embedding"),
        ),
        ("encoder.tokens", ("encoder.embedding",), ("encoder.tokens",)),
    ],
)
def test_a_wire_from_another_port_or_other_views_is_found(
    base: sslgraph.Graph, wires: object, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    found = sslgraph.diff(base, nodes(projector={"in": wires}))
    (change,) = found.wires
    assert (change.node, change.before, change.after) == ("projector", before, after)
    assert not any((found.added, found.settings, found.run))


def test_an_input_that_is_plugged_or_unplugged_is_found(base: sslgraph.Graph) -> None:
    pair: Data = {"query": "projector.0", "positive": "projector.1"}
    loss = {"use": "info_nce", "in": pair, "temperature": 0.2}
    old, new = nodes(loss=loss), nodes(loss={**loss, "in": {**pair, "negatives": "projector"}})
    there, back = sslgraph.diff(old, new), sslgraph.diff(new, old)
    assert there.wires == (WireChange("loss", "negatives", (), ("projector",)),)
    assert back.wires == (WireChange("loss", "negatives", ("projector",), ()),)
    assert "\n  + loss.negatives: projector" in str(there)
    assert "\n  - loss.negatives: projector" in str(back)


def test_an_input_that_is_given_its_default_is_no_difference(base: sslgraph.Graph) -> None:
    given = nodes(views={"in": {"image": "batch.image", "position": "batch.index"}})
    assert sslgraph.diff(base, given).equal
    assert sslgraph.diff(given, base).equal


@pytest.mark.parametrize(
    ("node", "keys", "change"),
    [
        ("loss", {"temperature": 0.2}, setting("nodes.loss.temperature", 0.1, 0.2)),
        (
            "loss",
            {"temperature": {"cosine": [0.1, 0.2]}},
            setting("nodes.loss.temperature", 0.1, {"cosine": [0.1, 0.2]}),
        ),
        ("projector", {"out": 16}, setting("nodes.projector.out", 8, 16)),
        ("projector", {"hidden": [16, 16]}, setting("nodes.projector.hidden", [16], [16, 16])),
        ("encoder", {"train": False}, setting("nodes.encoder.train", None, False)),
        ("encoder", {"weights": "timm"}, setting("nodes.encoder.weights", None, "timm")),
        (
            "encoder",
            {"train": {"freeze": "1 epoch"}},
            setting("nodes.encoder.train.freeze", None, "1 epoch"),
        ),
    ],
)
def test_a_changed_setting_is_found(
    base: sslgraph.Graph, node: str, keys: Data, change: SettingChange
) -> None:
    found = sslgraph.diff(base, nodes(**{node: keys}))
    assert found.settings == (change,)
    assert not any((found.added, found.removed, found.wires, found.run))
    (back,) = sslgraph.diff(nodes(**{node: keys}), base).settings
    assert (back.before, back.after) == (change.after, change.before)


def test_a_setting_that_is_left_out_is_shown_by_its_default(base: sslgraph.Graph) -> None:
    found = sslgraph.diff(base, nodes(loss={"reduce": "sum"}))
    path = ("nodes", "loss", "reduce")
    assert found.settings == (SettingChange(path, Value("mean", default=True), Value("sum")),)
    assert "~ loss.reduce: mean (default) -> sum" in str(found)


def test_items_of_a_list_are_found_by_what_they_begin_with(base: sslgraph.Graph) -> None:
    ops = [
        {"crop": [0.3, 1.0]},  # equal
        {"gray": 0.2},  # put in for flip
        {"jitter": [0.4, 0.4, 0.2, 0.1], "p": 0.5},
        {"blur": [0.1, 2.0]},
    ]
    assert sslgraph.diff(base, nodes(views={"ops": ops})).settings == (
        setting("nodes.views.ops.1", {"flip": 0.5}, None),
        setting("nodes.views.ops.1", None, {"gray": 0.2}),
        setting("nodes.views.ops.2.p", 0.8, 0.5),
        setting("nodes.views.ops.3", None, {"blur": [0.1, 2.0]}),
    )


def test_true_is_not_one(base: sslgraph.Graph) -> None:
    path = "nodes.encoder.args.flag"
    one = nodes(encoder={"args": {"flag": 1}})
    assert sslgraph.diff(one, nodes(encoder={"args": {"flag": 1.0}})).equal
    found = sslgraph.diff(one, nodes(encoder={"args": {"flag": True}}))
    assert found.settings == (setting(path, 1, True),)


def test_another_type_is_a_change_of_use_with_what_was_written(base: sslgraph.Graph) -> None:
    found = sslgraph.diff(base, nodes(projector={**HEAD, "in": "encoder.embedding", "out": 16}))
    assert found.settings == (
        setting("nodes.projector.use", "projector", "predictor"),
        setting("nodes.projector.out", 8, 16),
    )
    assert not any((found.added, found.removed, found.wires))


def test_another_type_says_nothing_of_defaults() -> None:
    pair = {"query": "projector.0", "positive": "projector.1"}
    loss = {"use": "info_nce", "in": pair, "temperature": 0.1}
    plain = {"use": "nt_xent", "in": "projector", "temperature": 0.1}
    found = sslgraph.diff(nodes(loss=plain), nodes(loss=loss))
    assert found.settings == (setting("nodes.loss.use", "nt_xent", "info_nce"),)
    assert [(change.port, change.before, change.after) for change in found.wires] == [
        ("query", (), ("projector.0",)),
        ("positive", (), ("projector.1",)),
        ("x", ("projector",), ()),
    ]


def test_the_order_of_keys_is_no_difference_in_a_list_or_a_renamed_node() -> None:
    own = {"use": "my_loss", "in": "projector", "parts": [{"a": 1, "b": 2}, {"c": 3}]}
    turned = {**own, "parts": [{"b": 2, "a": 1}, {"c": 4}]}
    found = sslgraph.diff(nodes(loss=own), nodes(loss=turned))
    assert found.settings == (setting("nodes.loss.parts.1.c", 3, 4),)

    def change(data: Data) -> None:
        data["nodes"]["encoder"]["args"] = {"b": 2, "a": {"d": 1, "c": 2}}
        renamed(data, encoder="backbone")

    found = sslgraph.diff(nodes(encoder={"args": {"a": {"c": 2, "d": 1}, "b": 2}}), changed(change))
    assert [pair.after for pair in found.renamed] == ["backbone"]


def test_what_changes_in_the_run_is_found(base: sslgraph.Graph) -> None:
    def change(data: Data) -> None:
        data["minimize"]["loss"] = {"linear": [0, 1]}
        data["outputs"] = {"embedding": "projector", "tokens": "encoder.tokens"}
        data["train"] = {"epochs": 3, "lr": {"base": 0.5, "warmup": "10 epochs"}}
        data["data"] = {"batch": {"channels": 1}}

    found = sslgraph.diff(base, changed(change))
    assert list(found.run) == [
        SettingChange(("data", "batch", "channels"), Value(3, default=True), Value(1)),
        setting("minimize.loss", 1.0, {"linear": [0, 1]}),
        setting("outputs.embedding", "encoder.embedding", "projector"),
        setting("outputs.tokens", None, "encoder.tokens"),
        setting("train.steps", 2, None),
        setting("train.lr.base", 0.3, 0.5),
        setting("train.epochs", None, 3),
    ]
    assert not any((found.added, found.wires, found.settings))


def renamed(data: Data, **names: str) -> None:
    """Give nodes other names, wherever they are named."""

    def other(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: child if key == "use" else other(child) for key, child in value.items()}
        if isinstance(value, list):
            return [other(child) for child in value]
        if isinstance(value, str):
            return ".".join(names.get(word, word) for word in value.split("."))
        return value

    data["nodes"] = {names.get(name, name): other(node) for name, node in data["nodes"].items()}
    data["minimize"] = {names.get(name, name): w for name, w in data["minimize"].items()}
    data["outputs"] = other(data["outputs"])


def test_a_renamed_node_is_not_removed_and_added(base: sslgraph.Graph) -> None:
    other = changed(lambda data: renamed(data, encoder="backbone"))
    found = sslgraph.diff(base, other)
    assert found.renamed == (Renamed("encoder", "backbone", "encoder"),)
    assert not found.equal
    assert not any((found.added, found.removed, found.wires, found.settings, found.run))
    assert sslgraph.diff(other, base).renamed == (Renamed("backbone", "encoder", "encoder"),)


def test_every_node_may_be_renamed_at_once(base: sslgraph.Graph) -> None:
    names = {"views": "a", "encoder": "b", "projector": "c", "loss": "d"}
    found = sslgraph.diff(base, changed(lambda data: renamed(data, **names)))
    assert {(pair.before, pair.after) for pair in found.renamed} == set(names.items())
    assert not any((found.added, found.removed, found.run))


def test_a_renamed_and_changed_node_is_another_node(base: sslgraph.Graph) -> None:
    def change(data: Data) -> None:
        renamed(data, projector="head")
        data["nodes"]["head"]["out"] = 16

    found = sslgraph.diff(base, changed(change))
    assert [node.name for node in found.added] == ["head"]
    assert [node.name for node in found.removed] == ["projector"]
    assert found.renamed == ()
    assert found.wires == (WireChange("loss", "x", ("projector",), ("head",)),)


def test_a_change_downstream_of_a_renamed_node_is_the_only_one(base: sslgraph.Graph) -> None:
    def change(data: Data) -> None:
        renamed(data, encoder="backbone")
        data["nodes"]["projector"]["in"] = "backbone.tokens"
        data["nodes"]["loss"]["temperature"] = 0.2

    found = sslgraph.diff(base, changed(change))
    assert [pair.after for pair in found.renamed] == ["backbone"]
    assert [change.where for change in found.wires] == ["projector.x"]
    assert found.settings == (setting("nodes.loss.temperature", 0.1, 0.2),)


def twins(*names: str) -> sslgraph.Graph:
    """The base with equal heads, each with a loss of its own."""
    data = copy.deepcopy(BASE)
    for name in names:
        data["nodes"][name] = HEAD
        data["nodes"][f"{name}_loss"] = {"use": "nt_xent", "in": name}
        data["minimize"][f"{name}_loss"] = 1.0
    return sslgraph.load(data)


def test_equal_nodes_are_paired_in_their_order() -> None:
    found = sslgraph.diff(twins("one", "two"), twins("first", "second"))
    pairs = [(pair.before, pair.after) for pair in found.renamed]
    assert pairs == [
        ("one", "first"),
        ("one_loss", "first_loss"),
        ("two", "second"),
        ("two_loss", "second_loss"),
    ]
    assert not any((found.added, found.removed, found.wires, found.run))


@pytest.mark.parametrize(
    ("a", "b"), [(("one", "two"), ("third",)), (("third",), ("one", "two")), ((), ("one",))]
)
def test_both_directions_say_the_same(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    there, back = sslgraph.diff(twins(*a), twins(*b)), sslgraph.diff(twins(*b), twins(*a))
    assert there.added == back.removed
    assert there.removed == back.added
    turned = [Renamed(pair.after, pair.before, pair.use) for pair in back.renamed]
    assert list(there.renamed) == turned


def with_copy(**changes: object) -> Data:
    data = copy.deepcopy(BASE)
    data["nodes"]["slow"] = {
        "use": "ema", "of": ["encoder", "projector"], "in": "views", "momentum": 0.9, **changes,
    }  # fmt: skip
    data["outputs"]["slow"] = "slow.encoder.tokens"
    return data


def test_members_of_a_copy_are_compared_under_their_new_names() -> None:
    data = with_copy()
    renamed(data, encoder="backbone", slow="teacher")
    found = sslgraph.diff(sslgraph.load(with_copy()), sslgraph.load(data))
    pairs = {(pair.before, pair.after) for pair in found.renamed}
    assert pairs == {("encoder", "backbone"), ("slow", "teacher")}
    assert not any((found.added, found.removed, found.wires, found.settings, found.run))


@pytest.fixture
def blend() -> None:
    """A node type with two inputs that its graph has to plug."""

    class Blend(Node, use="blend"):
        """The mean of two embeddings."""

        x = In("embedding", "V B D")
        other = In("embedding", "V B D")
        y = Out("embedding", "V B D")

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return (x + other) / 2


def with_blend(other: str, **wires: str) -> Data:
    """A copy of a chain, one member of which has a second input."""
    data = with_copy(of=["projector", "mix"], **{"in": {"x": "encoder.embedding", **wires}})
    data["nodes"]["mix"] = {"use": "blend", "in": {"x": "projector", "other": other}}
    data["outputs"]["slow"] = "slow.mix.y"
    return data


@pytest.mark.usefixtures("blend")
def test_a_wire_that_a_copy_keeps_is_told_once() -> None:
    old, new = with_blend("encoder.embedding"), with_blend("encoder.embedding.0")
    found = sslgraph.diff(sslgraph.load(old), sslgraph.load(new))
    assert not found.literal
    assert [change.where for change in found.wires] == ["mix.other"]


@pytest.mark.usefixtures("blend")
def test_inputs_of_renamed_members_are_the_same() -> None:
    old = with_blend("encoder.embedding", **{"mix.other": "projector.0"})
    new = copy.deepcopy(old)
    renamed(new, mix="head")
    new["nodes"]["slow"]["in"] = {"x": "encoder.embedding", "head.other": "projector.0"}
    found = sslgraph.diff(sslgraph.load(old), sslgraph.load(new))
    assert [pair.after for pair in found.renamed] == ["head"]
    assert not any((found.wires, found.settings, found.run, found.literal))
    new["nodes"]["slow"]["in"]["head.other"] = "projector.1"
    (change,) = sslgraph.diff(sslgraph.load(old), sslgraph.load(new)).wires
    assert change == WireChange("slow", "head.other", ("projector.0",), ("projector.1",))


def test_a_reference_to_a_node_of_another_type_is_no_other_wire() -> None:
    old = with_copy()
    old["nodes"]["loss"] = {
        "use": "info_nce", "in": {"query": "projector.0", "positive": "slow.1"}, "temperature": 0.2,
    }  # fmt: skip
    old["outputs"] = {"embedding": "slow"}
    new = copy.deepcopy(old)
    new["nodes"]["slow"] = {"use": "stop_grad", "in": "projector"}
    found = sslgraph.diff(sslgraph.load(old), sslgraph.load(new))
    assert not found.literal
    assert {change.where for change in found.wires} == {"slow.x", "slow.image"}
    assert not found.run


def test_another_chain_is_a_change_of_of() -> None:
    found = sslgraph.diff(
        sslgraph.load(with_copy()), sslgraph.load(with_copy(of="encoder", momentum=0.99))
    )
    assert found.settings == (
        setting("nodes.slow.of", ["encoder", "projector"], "encoder"),
        setting("nodes.slow.momentum", 0.9, 0.99),
    )


def test_where_a_graph_has_errors_both_are_compared_as_written(base: sslgraph.Graph) -> None:
    broken = nodes(loss={"temprature": 0.2, "in": {"x": "projector"}})
    found = sslgraph.diff(base, broken)
    assert found.literal
    assert found.settings == (setting("nodes.loss.temprature", None, 0.2),)
    assert [change.port for change in found.wires] == ["x", "in"]
    assert not sslgraph.diff(base, nodes(loss={"temperature": 0.2})).literal


def test_a_type_that_nobody_knows_is_compared_as_written(base: sslgraph.Graph) -> None:
    own = {"use": "my_loss", "in": "projector", "scale": [1, 2]}
    found = sslgraph.diff(nodes(loss=own), nodes(loss={**own, "scale": [1, 3]}))
    assert found.literal
    assert found.settings == (setting("nodes.loss.scale", [1, 2], [1, 3]),)


def test_the_summary_word_for_word(base: sslgraph.Graph) -> None:
    def change(data: Data) -> None:
        renamed(data, encoder="backbone")
        data["nodes"]["predictor"] = HEAD
        data["nodes"]["loss"] = {"use": "nt_xent", "in": "predictor", "temperature": 0.2}
        data["nodes"]["views"]["ops"].pop(1)
        data["train"]["clip"] = {"norm": 3}

    assert str(sslgraph.diff(base, changed(change), names=("base", "mine.yaml"))) == (
        "base -> mine.yaml: 1 node added, 1 node renamed, 1 input rewired, 2 settings changed, "
        "1 value of the run changed\n"
        "nodes\n"
        "  ~ encoder -> backbone renamed\n"
        "  + predictor           {use: predictor, in: projector, hidden: [16], out: 8}\n"
        "wires\n"
        "  ~ loss.x: projector -> predictor\n"
        "settings\n"
        "  - views.ops.1:      {flip: 0.5}\n"
        "  ~ loss.temperature: 0.1 -> 0.2\n"
        "run\n"
        "  + train.clip: {norm: 3}"
    )


def test_a_long_change_has_a_line_a_side(base: sslgraph.Graph) -> None:
    found = sslgraph.diff(base, nodes(projector={"hidden": [1000 + i for i in range(16)]}))
    lines = str(found).splitlines()
    assert lines[2:5] == [
        "  ~ projector.hidden:",
        "      - [16]",
        "      + [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, "
        "1013, 1014, 1015]",
    ]


def test_a_long_node_has_a_line_a_key(base: sslgraph.Graph) -> None:
    ops = [{"crop": [0.08, 1], "interpolation": "bicubic"}, {"flip": 0.5}, {"gray": 0.25}] * 2
    crops = {"use": "augment", "in": "batch.image", "size": 24, "ops": ops}
    there = str(sslgraph.diff(base, nodes(crops=crops)))
    assert there.splitlines()[1:] == [
        "nodes",
        "  + crops",
        "      + use: augment",
        "      + in: batch.image",
        "      + size: 24",
        "      + ops: [{crop: [0.08, 1], interpolation: bicubic}, {flip: 0.5}, {gray: 0.25},",
        "      +       {crop: [0.08, 1], interpolation: bicubic}, {flip: 0.5}, {gray: 0.25}]",
    ]
    back = str(sslgraph.diff(nodes(crops=crops), base))
    assert back.splitlines()[1:] == [line.replace("+ ", "- ", 1) for line in there.splitlines()[1:]]


def test_equal_graphs_need_no_node_types() -> None:
    program = (
        "import sys, sslgraph; a, b = (sslgraph.load('simclr') for _ in 'ab');"
        "print(sslgraph.diff(a, b).equal, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
