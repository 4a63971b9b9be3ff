"""Hybrids: a few lines on top of a method, which check, train and say what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sslgraph
from sslgraph.checking import check
from sslgraph.loading import shipped_methods
from sslgraph.plan import make_plan

HYBRIDS = sorted(
    name for name, path in shipped_methods().items() if Path(path).parent.name == "hybrids"
)


def test_there_are_three() -> None:
    assert HYBRIDS == ["byol_masked", "mae_contrast", "moco_dino"]


@pytest.mark.parametrize("name", HYBRIDS)
def test_at_most_ten_lines(name: str) -> None:
    lines = shipped_methods()[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", HYBRIDS)
def test_nothing_is_wrong(name: str) -> None:
    assert check(sslgraph.load(name)) == []


@pytest.mark.parametrize("name", HYBRIDS)
def test_it_learns_what_it_is_shown(name: str) -> None:
    """A few steps on one batch lower every term."""
    torch.manual_seed(0)
    graph = sslgraph.load(name, preset="tiny", set={"train.batch_size": 16, "train.steps": 40})
    method = sslgraph.compile(graph, seed=0)
    method.clock.set(total_steps=40, steps_per_epoch=4)
    side = make_plan(graph).canvas()
    wave = torch.linspace(0, 6, side)
    x, y = torch.meshgrid(wave, wave, indexing="ij")
    colours = torch.arange(16 * 3).view(16, 3, 1, 1)
    batch = {
        "image": ((x * 0.7 + y * (colours % 5) / 3 + colours).sin() + 1) / 2,
        "index": torch.arange(16),
    }
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    terms = []
    for _ in range(8):
        optimizer.zero_grad()
        step = method(batch)
        step.loss.backward()
        optimizer.step()
        method.after_step()
        terms.append({key: float(value.detach()) for key, value in step.terms.items()})
    assert all(terms[-1][key] < terms[0][key] for key in graph.minimize)


def test_the_queue_of_the_hybrid_holds_the_teachers_older_keys() -> None:
    changes = {"train.batch_size": 8, "nodes.queue.size": 16}
    graph = sslgraph.load("moco_dino", preset="tiny", set=changes)
    method = sslgraph.compile(graph, seed=0)
    method.clock.set(total_steps=40, steps_per_epoch=4)
    side = make_plan(graph).canvas()
    batch = {"image": torch.rand(8, 3, side, side), "index": torch.arange(8)}
    keys = method.run({}, ["teacher.projector"], batch)["teacher.projector"]
    before = method.run({}, ["queue"])["queue"]
    method(batch)
    after = method.run({}, ["queue"])["queue"]
    torch.testing.assert_close(after[0, :8], keys[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(after[0, 8:], before[0, 8:])


def test_the_masked_hybrids_target_sees_whole_views() -> None:
    plan = make_plan(sslgraph.load("byol_masked"))
    assert "mask" in plan.step("encoder").inputs
    assert list(plan.step("target").inputs) == ["image"]
