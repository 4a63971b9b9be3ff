"""Mutants: what is broken on purpose follows from declarations, and holds what it says."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import sslgraph
from sslgraph.checking import check
from tools.mutants import Mutant
from tools.mutate import Trajectory, checked, codes_of, of_method, published, summary
from tools.state_mutants import early

RULES = (("train", "none"), ("encoder", "view"))
METHODS = ("simsiam", "moco_v2", "dino", "mae", "i_jepa")


@cache
def found(name: str) -> dict[str, Mutant]:
    return {mutant.text: mutant for mutant in of_method(name)}


def test_every_operator_finds_something_to_break() -> None:
    operators = {mutant.operator for name in METHODS for mutant in found(name).values()}
    assert operators == {
        "crossed wires",
        "other views",
        "stopped wires",
        "plugged",
        "unplugged",
        "swapped",
        "bypassed",
        "quick copies",
        "short chains",
        "turned settings",
        "dropped losses",
        "lost writes",
        "double writes",
        "early writes",
        "inverted momentum",
        "wrong sign",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("simsiam", "loss.target: target -> projector"),
        ("simsiam", "predictor.x goes past predictor"),
        ("simsiam", "loss: prediction and target change places"),
        ("simsiam", "loss.pairs = same"),
        ("moco_v2", "queue is written before it is read"),
        ("moco_v2", "encoder.image: views.0 -> views.1"),
        ("moco_v2", "key is encoder and projector itself"),
        ("dino", "teacher.image: crops.global -> crops.local"),
        ("dino", "center.x goes past center"),
        ("dino", "center has the wrong sign"),
        ("dino", "teacher keeps 1 - momentum"),
        ("dino", "train.batch_norm.per = view"),
        ("mae", "encoder.mask: mask -> mask.visible"),
        ("mae", "loss.mask: mask -> nothing"),
        ("i_jepa", "teacher.mask: nothing -> blocks.context"),
    ],
)
def test_the_mistakes_that_are_known_to_happen_are_among_them(name: str, text: str) -> None:
    assert text in found(name)


def test_a_mutant_is_a_whole_file_that_differs_in_one_place() -> None:
    mutant = found("simsiam")["loss.target: target -> projector"]
    assert mutant.tree is not None
    graph = sslgraph.load(mutant.tree, preset="tiny")
    own = sslgraph.load("simsiam", preset="tiny")
    changed = [name for name in own.nodes if graph.nodes[name].inputs != own.nodes[name].inputs]
    texts = [reference.text for reference in graph.nodes["loss"].inputs["target"]]
    assert (changed[-1], texts) == ("loss", ["projector"])
    assert "W501" in [problem.code for problem in check(graph, sizes=False)]


def test_a_write_that_comes_first_is_seen_by_the_read() -> None:
    graph = sslgraph.load("moco_v2", preset="tiny", set={"train.batch_size": 8, "vars.queue": 32})
    batch = {"image": torch.rand(8, 3, 37, 37), "index": torch.arange(8)}
    torch.manual_seed(0)
    sound = sslgraph.compile(graph, seed=0)
    expected = sound(batch).loss
    mutant = found("moco_v2")["queue is written before it is read"]
    assert mutant.disorder is not None
    with mutant.disorder:
        broken = sslgraph.compile(graph, seed=0)
        got = broken(batch).loss
    assert float(got.detach()) != pytest.approx(float(expected.detach()), rel=1e-4)
    rows = [method.run({}, ["queue"])["queue"] for method in (sound, broken)]
    assert torch.equal(*rows)


def test_lines_wait_for_what_is_read_late() -> None:
    assert early([('x = n["a"]()', None)], "b") == [('x = n["a"]()', None)]


def test_a_hybrid_in_one_file_is_caught_by_nothing_but_the_change(tmp_path: Path) -> None:
    """Its preset deletes what its parent's preset says, of which nothing is left there."""
    file, codes = tmp_path / "byol_masked.yaml", codes_of("byol_masked")
    said = []
    for text in ("loss.reduce = mean", "loss.prediction: predictor -> target"):
        file.write_text(yaml.safe_dump(found("byol_masked")[text].tree), encoding="utf-8")
        said.append(checked(file, codes).partition(" ")[0])
    assert said == ["", "W303"]


def test_a_rule_that_only_the_small_preset_s_norms_follow_changes_no_published_layer() -> None:
    """SupCon's head has a batch norm in the small preset only; its encoder has its own rule."""
    own, trees = published("sup_con"), []
    for place, value in RULES:
        trees.append(found("sup_con")[f"{place}.batch_norm.per = {value}"].tree)
    assert [published(tree) == own for tree in trees if tree] == [True, False]


def test_the_summary_counts_those_that_change_something() -> None:
    judged = [{"by": by} for by in ("check", "prove", "goldens", "equivalent", "")]
    text = summary(judged)
    assert "5 mutants, 1 equivalent; of 4 caught 3 (75 %), without goldens 2 (50 %)" in text


def test_runs_are_compared_within_rounding() -> None:
    run = Trajectory([(1.0, 2.0), (3.0,)])
    close = Trajectory([(1.0 + 1e-7, 2.0), (3.0,)])
    assert run == close
    assert (run != close) is False
    assert run != Trajectory([(1.0 + 1e-3, 2.0), (3.0,)])
    assert run != Trajectory([(1.0,), (3.0,)])
