"""From a graph and images to a run folder: the whole of a run, new or resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from sslgraph.check_sizes import setting_problems
from sslgraph.command import command
from sslgraph.data.source import Source
from sslgraph.errors import GraphError
from sslgraph.files import WriteError, write_text
from sslgraph.loading import load
from sslgraph.method import Method, compile_graph
from sslgraph.nodes.base import SettingError
from sslgraph.spec import Graph
from sslgraph.train import checkpoint
from sslgraph.train.failures import RunError
from sslgraph.train.metrics import cut_after
from sslgraph.train.progress import Reporter
from sslgraph.train.rates import Horizon
from sslgraph.train.report import Result
from sslgraph.train.run_folder import RunFolder, environment
from sslgraph.train.training import Draw, Training, pick_device


def train(
    graph: Graph,
    source: Source,
    *,
    test_source: Source | None = None,
    out: Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
    workers: int = 0,
    draw: Draw | None = None,
    target: str = "",
    notes: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Result:
    """Train a graph on images and leave a run folder.

    Args:
        graph: The graph, as `sslgraph.load` gives it.
        source: Training images; labels serve kNN only.
        test_source: Images of the same classes that training never sees.
        out: The run folder, new or empty; `runs/<name>-001` and so on if None.
        steps: Length that replaces the one of the graph.
        seed: Of first weights, order of images and every draw.
        device: Such as `cuda`; a GPU if there is one, else the CPU.
        workers: Processes that read images ahead.
        draw: Draws the graph into a file.
        target: What the user calls the method, for the commands to try next; its name if empty.
        notes: Kept in `run.json` for `resume`: how to make the source again.
        console: Where progress is shown.

    Raises:
        GraphError: The graph can't be compiled, or a node does not suit the data.
        RunError: The run can't start or go on; says what to do.
        DataError: The data can't be used.
    """
    reporter = Reporter(console)
    settings = {
        "seed": seed,
        "steps": steps,
        "samples": len(source),
        "workers": workers,
        "device": device,
        "target": target or graph.name,
        "notes": dict(notes or {}),
        "graph": graph_hash(graph.document.text),
    }
    horizon = _horizon(graph, len(source), steps)
    facts = environment(pick_device(device))
    method = _compiled(graph, seed, len(source))
    try:
        folder = RunFolder.at(out) if out is not None else RunFolder.create(graph.name)
        write_text(folder.graph, graph.document.text)
        folder.write_json(folder.settings, settings)
        folder.write_json(folder.environment, facts)
    except WriteError as error:
        raise RunError(f"{error}; choose another folder with --out DIR") from error
    training = Training(method, horizon, folder, source, test_source, settings, reporter)
    training.prepare(draw)
    return training.go(None)


def resume(
    path: Path,
    source: Source,
    *,
    test_source: Source | None = None,
    console: Console | None = None,
) -> Result:
    """Go on with a run that was stopped; on the same machine it ends as if it never had been.

    Args:
        path: The run folder.
        source: The same images as before; `run_settings(path)["notes"]` says how they were made.
        test_source: The same test images.
        console: Where progress is shown.

    Raises:
        RunError: The folder is no run, is in use, or its graph or data have changed.
    """
    reporter = Reporter(console)
    folder = RunFolder.open(path)
    settings = run_settings(path)
    busy = folder.running_process()
    if busy is not None:
        raise RunError(f"{path} is being trained by process {busy}: stop that one first")
    graph = _same_graph(settings, folder)
    if len(source) != settings["samples"]:
        raise RunError(
            f"{folder} was trained on {settings['samples']} images and the data has {len(source)} "
            "now: give it the same images, or start a new run"
        )
    found = checkpoint.latest(folder.checkpoints, reporter.warn)
    if found is not None and found.facts.get("graph") != settings["graph"]:
        raise RunError(f"{found.path} belongs to another run: move it away")
    method = compile_graph(graph, seed=settings["seed"])
    horizon = _horizon(graph, len(source), settings["steps"])
    training = Training(method, horizon, folder, source, test_source, settings, reporter)
    try:
        cut_after(folder.metrics, found.step if found else 0)
    except (ValueError, OSError) as error:
        raise RunError(f"{error}: see to {folder.metrics}, or move it away") from error
    if found is None:
        reporter.line("no checkpoint so far: starting at step 0")
        training.prepare(None)
    else:
        reporter.line(f"resume  {path} at step {found.step} of {horizon.total_steps}")
    return training.go(found)


def run_settings(path: Path) -> dict[str, Any]:
    """What `run.json` of a run folder says: seed, data, device, length, `notes`.

    Raises:
        RunError: It is no run folder, or the file is damaged.
    """
    folder = RunFolder.open(path)
    settings = folder.read_json(folder.settings)
    missing = {"seed", "steps", "samples", "workers", "device", "target", "graph"} - set(settings)
    if missing:
        raise RunError(f"{folder.settings} has no '{min(missing)}'")
    return settings


def graph_hash(text: str) -> str:
    """SHA-256 of a graph's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _compiled(graph: Graph, seed: int, images: int) -> Method:
    """The method of a graph, whose nodes suit a data set.

    Raises:
        GraphError: The graph has errors, or nodes don't; each setting is named with its line.
    """
    method, problems = compile_graph(graph, seed=seed), []
    for step in method.plan.steps:
        try:
            method.nodes[step.name].check_data(images)
        except SettingError as fault:
            problems += setting_problems(method.plan, step, fault)
    if problems:
        raise GraphError(tuple(problems))
    return method


def _horizon(graph: Graph, samples: int, steps: int | None) -> Horizon:
    spec = graph.train
    if spec.batch_size % spec.accumulate:
        raise RunError(
            f"a batch of {spec.batch_size} can't be split into {spec.accumulate} equal parts: "
            "change train.batch_size or train.accumulate"
        )
    try:
        return Horizon.of(spec, samples, steps)
    except ValueError as error:
        raise RunError(str(error)) from error


def _same_graph(settings: Mapping[str, Any], folder: RunFolder) -> Graph:
    """The graph of the run folder, as it was when the run began."""
    remedy = (
        f"{folder.graph} was changed since this run began, so it can't go on: undo the change, "
        f"or start a new run of it: {command()} run {folder.graph}"
    )
    try:
        graph = load(folder.graph)
    except GraphError as error:
        raise RunError(f"{remedy}\n{error}") from error
    if graph_hash(graph.document.text) != settings["graph"]:
        raise RunError(remedy)
    return graph
