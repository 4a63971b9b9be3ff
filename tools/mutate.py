"""Mutation: break each shipped method on purpose, and see who objects.

    python -m tools.mutate                       # every method; long
    python -m tools.mutate byol dino --sample 20
    python -m tools.mutate --list byol           # the mutants, without judging them

A mutant counts as caught by the first that objects: `check` (an error, or a warning that the
method itself does not have), `prove` (a property of `WIRING`, which every method has), or the
method's goldens (its tests in `tests/methods`). One that changes neither loss nor gradients over
six steps in one process is equivalent, unless someone objects; so is one that changes the small
preset alone, such as a rule for batch norms that the published recipe does not have. Results stand
in `tools/mutants.json` with date and commit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

import sslgraph
from sslgraph import loading
from sslgraph.checking import report
from sslgraph.checks.references import Wire
from sslgraph.errors import GraphError
from sslgraph.files import write_text
from sslgraph.loading import shipped_methods
from sslgraph.make import make_modules
from sslgraph.plan import make_plan
from sslgraph.proving.case import Case
from sslgraph.proving.prove import proved
from tools.methods import commit, read, today
from tools.mutants import Mutant, Tree, mutants

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tools" / "mutants.json"
STEPS, EPOCH, SEED = 6, 4, 0  # an epoch has as many images as small banks have clusters
# Relative, for the first step and for later ones, into which rounding of the first has grown.
FIRST, LATER = 1e-5, 1e-3
NOISE = 1e-5  # of the largest gradient: what is below is rounding, as of biases before a batch norm
JUDGES = ("check", "prove", "goldens")
# The quick properties first, and only those that a wire or state can break.
WIRING = (
    "trained_gradients",
    "stopped_gradients",
    "view_pairs",
    "view_order",
    "image_order",
    "masked_places",
    "loss_levels",
    "copies",
    "reads_before_writes",
    "evaluation",
)


class Trajectory(list[tuple[float, ...]]):
    """Losses and sums of gradients, step by step; equal within `FIRST` and `LATER`."""

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Trajectory)
        if [len(step) for step in self] != [len(step) for step in other]:
            return False
        return all(
            torch.allclose(
                torch.tensor(ours), torch.tensor(theirs), rtol=rtol, atol=NOISE * max(ours)
            )
            for ours, theirs, rtol in zip(self, other, self._tolerances(), strict=True)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other  # a list has one of its own, which knows of no tolerance

    def _tolerances(self) -> Iterator[float]:
        yield from (LATER if step else FIRST for step in range(len(self)))

    __hash__ = None


@dataclass(frozen=True)
class Sound:
    """What the method itself has: codes of its problems, and a short run."""

    codes: tuple[str, ...]
    trajectory: Trajectory


@functools.cache
def _sound(name: str) -> Sound:
    return Sound(codes_of(name), _trajectory(name, batch_of(name)))


def codes_of(name: str) -> tuple[str, ...]:
    """The codes of what is said of a method in one file, as its mutants are.

    What deletes a setting of a parent deletes nothing there, and no mutant is caught by that.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = _written(_tree(name), Path(folder) / f"{name}.yaml")
        return tuple(problem.code for problem in _problems(source))


def _tree(name: str) -> Tree:
    """A method's file, parents merged."""
    tree: Tree = yaml.safe_load(sslgraph.load(name).document.text)
    return tree


@functools.cache
def batch_of(name: str) -> int:
    """The smallest batch that a method takes."""
    return Case.of(sslgraph.load(name, preset="tiny")).batch


def small(source: str | Path, batch: int) -> sslgraph.Graph:
    """The small preset of a method or of a mutant, with few images."""
    return sslgraph.load(source, preset="tiny", set={"train.batch_size": batch})


def of_method(name: str) -> list[Mutant]:
    """Every mutant of a shipped method."""
    found = report(small(name, batch_of(name)))
    if found.plan is None or found.sizes is None:
        raise SystemExit(f"{name} does not check")
    return list(mutants(_tree(name), found.plan, found.sizes.shapes))


def judge(name: str, place: int) -> dict[str, str]:
    """Who catches one mutant of a method: its text, its operator, the judge and what was said."""
    torch.set_num_threads(1)
    mutant = of_method(name)[place]
    sound = _sound(name)  # before anything is out of order
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        source: str | Path = name
        if mutant.tree is not None:
            source = _written(mutant.tree, Path(folder) / f"{name}.yaml")
        if mutant.disorder is not None:
            stack.enter_context(mutant.disorder)
        by, why = _verdict(name, source, sound)
    return {"operator": mutant.operator, "mutant": mutant.text, "by": by, "why": why}


def _written(tree: Tree, path: Path) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def _verdict(name: str, source: str | Path, sound: Sound) -> tuple[str, str]:
    said = checked(source, sound.codes)
    if said:
        return "check", said
    try:
        changes = _trajectory(source, batch_of(name)) != sound.trajectory
    except Exception:  # of any node; the proof says which
        changes = True
    said = _prove(source)
    if said:
        return "prove", said
    if not changes:
        return "equivalent", ""
    said = _goldens(name, source)
    if said:
        return "goldens", said
    if source != name and published(source) == published(name):
        return "equivalent", "only the small preset changes"
    return "", ""


def checked(source: str | Path, codes: Sequence[str]) -> str:
    """The first problem of the mutant that the method does not have."""
    known = Counter(codes)
    for problem in _problems(source):
        known[problem.code] -= 1
        if known[problem.code] < 0:
            return f"{problem.code} {problem.title}"
    return ""


def _problems(source: str | Path) -> list[Any]:
    found = []
    for preset in (None, "tiny"):
        try:
            graph = sslgraph.load(source, preset=preset)
        except GraphError as failure:
            return list(failure.problems)
        found += report(graph, sizes=preset is not None).problems
    return found


def _trajectory(source: str | Path, batch: int) -> Trajectory:
    """A short run of the small preset in float64, where rounding does not grow into a change."""
    graph = small(source, batch)
    side = make_plan(graph).canvas()
    method = sslgraph.compile(graph, seed=SEED).double()
    for _, node in method.nodes.items():
        node.register_forward_hook(_in_float64)
    method.clock.set(total_steps=4 * STEPS, steps_per_epoch=EPOCH)
    draw = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    found = Trajectory()
    for step in range(STEPS):
        torch.manual_seed(step)  # of drop path
        images = torch.rand(batch, 3, side, side, generator=draw)
        place = torch.arange(batch) + step % EPOCH * batch
        data = {"image": images, "index": place, "sample": place, "label": place % 3}
        optimizer.zero_grad()
        loss = method(data).loss
        loss.backward()
        sums = [float(p.grad.abs().sum()) for p in method.parameters() if p.grad is not None]
        found.append((float(loss.detach()), *sums))
        optimizer.step()
        method.after_step()
    return found


def _in_float64(node: object, given: object, made: Any) -> Any:
    """What a node made, such as views of float32, in float64."""
    if isinstance(made, torch.Tensor):
        return made.double() if made.is_floating_point() else made
    parts = [_in_float64(node, given, part) for part in made]
    return type(made)(*parts) if hasattr(made, "_fields") else tuple(parts)


def _prove(source: str | Path) -> str:
    """The first property of `WIRING` that fails on the mutant; each method has them all."""
    case = Case.of(sslgraph.load(source, preset="tiny"))
    for name in WIRING:
        result = proved(case, name)
        if result.status == "failed":
            return f"{result.name}: {result.found}"
    return ""


def published(source: str | Path | Tree) -> list[object]:
    """What a method is made of without its presets: losses, and of each node its wires and layers.

    A rule of the run for batch norms shows in the layers that follow it.
    """
    graph = sslgraph.load(source)
    found = report(graph)
    assert found.plan is not None
    assert found.sizes is not None
    with torch.device("meta"):
        modules = make_modules(found.plan, SEED, found.sizes.axes)
    parts: list[object] = [dict(graph.minimize)]
    for step in found.plan.steps:
        wires = {port: _texts(wires) for port, wires in step.inputs.items()}
        members = [(member.path, member.config) for member in step.members]
        layers = repr(modules[step.name])
        parts.append((step.name, step.spec.use, step.config, wires, members, layers))
    return parts


def _texts(wires: Sequence[Wire]) -> list[str]:
    return [wire.reference.text for wire in wires]


def _goldens(name: str, source: str | Path) -> str:
    """The first test of the method that fails on the mutant."""
    path = ROOT / "tests" / "methods" / f"test_{name}.py"
    if not path.is_file():
        return ""
    known = shipped_methods()
    files = {**known, name: Path(source)} if source != name else known
    output = io.StringIO()
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=no", "-p", "no:xdist"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # all is imported already
    with (
        mock.patch.object(loading, "shipped_methods", return_value=files),
        contextlib.redirect_stdout(output),
    ):
        failed = pytest.main([str(path), *options])
    lines = [
        line for line in output.getvalue().splitlines() if line.startswith(("FAILED", "ERROR"))
    ]
    return (lines[0].partition("::")[2] if lines else "a test") if failed else ""


def run(names: Sequence[str], sample: int | None, processes: int) -> None:
    """Judge mutants and keep what was found."""
    for name in names:
        start, count = time.monotonic(), len(of_method(name))
        places = list(range(count))
        if sample is not None and sample < count:
            places = sorted(random.Random(name).sample(places, sample))
        context = multiprocessing.get_context("spawn")
        judged = []
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for verdict in pool.map(functools.partial(judge, name), places):
                judged.append(verdict)
                print(f"  {verdict['by'] or 'SURVIVES':10} {verdict['mutant']}", flush=True)
        known = read(RESULTS)
        known[name] = {"date": today(), "commit": commit(), "of": count, "mutants": judged}
        write_text(RESULTS, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        print(f"{name}: {summary(judged)}, {time.monotonic() - start:.0f} s", flush=True)
    print(f"all: {summary([m for r in read(RESULTS).values() for m in r['mutants']])}")


def again(processes: int) -> None:
    """Judge those once more that nobody caught, after the judges or the methods have changed."""
    for name, result in read(RESULTS).items():
        open_ = {m["mutant"] for m in result["mutants"] if not m["by"]}
        places = [i for i, mutant in enumerate(of_method(name)) if mutant.text in open_]
        if not places:
            continue
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            found = {m["mutant"]: m for m in pool.map(functools.partial(judge, name), places)}
        known = read(RESULTS)
        known[name]["mutants"] = [found.get(m["mutant"], m) for m in known[name]["mutants"]]
        write_text(RESULTS, json.dumps(known, indent=1) + "\n")
        for verdict in found.values():
            print(f"{name}: {verdict['by'] or 'SURVIVES'} {verdict['mutant']}", flush=True)
    print(f"all: {summary([m for r in read(RESULTS).values() for m in r['mutants']])}")


def summary(judged: Sequence[dict[str, str]]) -> str:
    """Shares of those that change loss or gradients."""
    by = Counter(verdict["by"] for verdict in judged)
    real = len(judged) - by["equivalent"]
    caught = real - by[""]
    early = by["check"] + by["prove"]
    return (
        f"{len(judged)} mutants, {by['equivalent']} equivalent; of {real} caught {caught} "
        f"({_percent(caught, real)}), without goldens {early} ({_percent(early, real)}); "
        + ", ".join(f"{judge_} {by[judge_]}" for judge_ in JUDGES)
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="METHOD")
    parser.add_argument("--sample", type=int, help="judge so many of each method, drawn by name")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants")
    parser.add_argument("--again", action="store_true", help="judge those that survived once more")
    given = parser.parse_args()
    names = given.names or list(shipped_methods())
    if given.list:
        for name in names:
            for mutant in of_method(name):
                print(f"{name:16} {mutant.operator:18} {mutant.text}")
        return
    if given.again:
        again(given.processes)
        return
    run(names, given.sample, given.processes)


if __name__ == "__main__":
    main()
