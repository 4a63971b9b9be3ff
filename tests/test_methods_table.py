"""`methods/README.md`: made by a tool from methods and measurements, never by hand."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import sslgraph
from sslgraph.loading import shipped_methods

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("methods_tool", ROOT / "tools" / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_what_the_tool_writes(tool: Any) -> None:
    shown = tool.README.read_text(encoding="utf-8")
    assert shown == tool.text(tool.read_results()), "run `python tools/methods.py table`"


def test_every_method_was_drawn_measured_and_proved(tool: Any) -> None:
    """Over three seeds; hybrids too."""
    results, proofs = tool.read(tool.RESULTS), tool.read(tool.PROOFS)
    for name in shipped_methods():
        assert tool.picture_of(name).is_file(), name
        assert proofs[name]["failed"] == {}, name
        assert set(proofs[name]["passed"]) >= {"trained_gradients", "evaluation", "walked"}, name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", proofs[name]["date"])
        assert set(results[name]["seeds"]) >= {"0", "1", "2"}, name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", results[name]["date"])


def test_every_method_has_goldens_and_its_mutants_were_judged(tool: Any) -> None:
    """Hybrids too."""
    mutants = tool.read(tool.MUTANTS)
    for name in shipped_methods():
        assert len(tool.checks_of(name)) > 1, name
        assert len(mutants[name]["mutants"]) > 1, name


def test_mutants_are_caught(tool: Any) -> None:
    """At least 95 of 100 of those that change something, and 60 without the methods' goldens."""
    judged = [m["by"] for r in tool.read(tool.MUTANTS).values() for m in r["mutants"]]
    real = [by for by in judged if by != "equivalent"]
    assert len(real) > 600
    assert sum(bool(by) for by in real) / len(real) >= 0.95
    assert sum(by in ("check", "prove") for by in real) / len(real) >= 0.6


def test_what_lost_its_guard_is_warned_of_and_collapses(tool: Any) -> None:
    found = tool.read(tool.COLLAPSE)
    assert set(found) >= {"byol", "simsiam", "dino", "barlow_twins", "vicreg", "swav"}
    for name, case in found.items():
        assert case["warned"], name
        assert case["fell"], name


def test_a_method_that_learned_nothing_is_said_to(tool: Any) -> None:
    seed = {"knn": 11.0, "untrained": 11.5, "pixels": 15.0}
    result = {"date": "2026-01-01", "commit": "abc", "seeds": {"0": seed}}
    assert "not above untrained" in tool.reached(result)[0]
    result["seeds"]["0"]["knn"] = 14.0  # type: ignore[index]  # 2.5 points are within chance
    assert "not above untrained" in tool.reached(result)[0]
    result["seeds"]["0"]["knn"] = 15.0  # type: ignore[index]
    assert "not above" not in tool.reached(result)[0]


def test_no_preset_is_another_method() -> None:
    """Same nodes, types, wires, members, losses and outputs; only sizes and numbers differ."""
    for name in shipped_methods():
        full, tiny = sslgraph.load(name), sslgraph.load(name, preset="tiny")
        assert wiring(full) == wiring(tiny), name


def wiring(graph: sslgraph.Graph) -> Any:
    nodes = {
        name: (
            node.use,
            node.of,
            {port: [r.text for r in references] for port, references in node.inputs.items()},
        )
        for name, node in graph.nodes.items()
    }
    outputs = {name: reference.text for name, reference in graph.outputs.items()}
    return nodes, list(graph.minimize), outputs
