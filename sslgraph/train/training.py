"""One process at work in a run folder: prepare, train, export, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sslgraph.data.loader import Loader, in_order
from sslgraph.data.source import Source
from sslgraph.files import WriteError
from sslgraph.method import Method
from sslgraph.saved import METHOD
from sslgraph.spec import Graph
from sslgraph.train import checkpoint
from sslgraph.train.export import ExportError, export_backbone
from sslgraph.train.failures import RunError
from sslgraph.train.groups import parameter_groups
from sslgraph.train.loop import Loop, Pace
from sslgraph.train.memory import out_of_memory
from sslgraph.train.monitor import Monitor, Sample
from sslgraph.train.optimizers import build_optimizer, load_optimizer_state
from sslgraph.train.pictures import PICTURES, save_views
from sslgraph.train.progress import Reporter
from sslgraph.train.rates import Horizon
from sslgraph.train.report import Floors, Result, tell_finished, tell_interrupted
from sslgraph.train.run_folder import RunFolder
from sslgraph.train.step import Updater

OUTPUT = "embedding"
"""The output of a graph whose features are measured and whose encoder is exported."""

Draw = Callable[[Graph, Path], None]


class Training:
    """A method, its data and its run folder.

    Args:
        method: Compiled, its clock not set yet.
        horizon: Length of the run.
        folder: Where everything goes; `graph.yaml` and `run.json` are there.
        source: Training images.
        test_source: Images that training never sees.
        settings: What `run.json` says.
        reporter: Tells people.
    """

    def __init__(
        self,
        method: Method,
        horizon: Horizon,
        folder: RunFolder,
        source: Source,
        test_source: Source | None,
        settings: dict[str, Any],
        reporter: Reporter,
    ) -> None:
        self.device = pick_device(settings["device"])
        self.spec = method.graph.train
        self.method = method.to(self.device)
        self.horizon, self.folder, self.settings, self.reporter = (
            horizon,
            folder,
            settings,
            reporter,
        )
        method.clock.set(
            total_steps=horizon.total_steps,
            steps_per_epoch=horizon.steps_per_epoch,
            accumulate=self.spec.accumulate,
        )
        self.loader = Loader(
            source,
            batch_size=self.spec.batch_size // self.spec.accumulate,
            seed=settings["seed"],
            workers=settings["workers"],
            device=self.device,
            on_bad=lambda bad: reporter.warn(f"{bad.uri}: {bad.reason}; another image replaces it"),
        )
        measured = OUTPUT in method.plan.outputs
        self.monitor = Monitor(source, test_source, self.device) if measured else None

    def prepare(self, draw: Draw | None) -> None:
        """Before the first step: pictures, and what the encoder has to beat."""
        try:
            self._pictures(draw)
            if self.monitor is not None and self.monitor.classes:
                self._floors(self.monitor)
        except WriteError as error:
            self.reporter.warn(f"{error}; the run goes on without it")

    def _floors(self, monitor: Monitor) -> None:
        untrained = monitor.measure(self.method).knn
        floors = Floors(untrained, monitor.pixels(), monitor.chance)
        self.settings["floors"] = asdict(floors)
        shown = {"chance": floors.chance, "raw pixels": floors.pixels}
        shown["untrained encoder"] = floors.untrained
        parts = [f"{name} {value:.1%}" for name, value in shown.items() if value is not None]
        self.reporter.line("floor   " + "   ".join(parts) + "   (kNN top-1)")
        self.folder.write_json(self.folder.settings, self.settings)

    def go(self, found: checkpoint.Checkpoint | None) -> Result:
        """Train from a checkpoint or from the beginning to the end, then export and report."""
        self.folder.beat("running")
        try:
            loop = self._loop(found)
            signal = loop.run()
            result = self._result(loop, signal)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            self.folder.beat("failed", reason=reason)
            short = out_of_memory(error, self.spec, self.device)
            if short is not None:
                raise short from error
            raise
        self.folder.beat(
            "interrupted" if signal else "finished",
            step=result.step,
            total_steps=result.total_steps,
        )
        self._tell(result)
        return result

    def _pictures(self, draw: Draw | None) -> None:
        if draw is not None:
            draw(self.method.graph, self.folder.picture)
        few = Sample(self.loader.source, PICTURES)
        batch: Any = next(in_order(few, batch_size=PICTURES, device=self.device))
        save_views(self.folder.views / "step_0000.png", self.method, batch)

    def _loop(self, found: checkpoint.Checkpoint | None) -> Loop:
        graph, spec = self.method.graph, self.spec
        of_node = {name: node.train for name, node in graph.nodes.items()}
        parameters = self.method.parameters_by_node()
        groups = parameter_groups(self.method, parameters, spec, of_node, self.horizon)
        optimizer = build_optimizer(spec, groups)
        if found is not None:
            try:
                self.method.load_state_dict(found.state[METHOD])
                load_optimizer_state(optimizer, groups, found.state["optimizer"])
            except (RuntimeError, KeyError, ValueError) as error:
                reason = str(error).split("\n")[0]
                raise RunError(
                    f"{found.path} does not fit {self.folder.graph}: {reason}"
                ) from error
        updater = Updater(self.method, optimizer, groups, spec, self.horizon, self.settings["seed"])
        return Loop(
            updater,
            self.loader,
            self.folder,
            self.monitor,
            self.reporter,
            Pace.of(self.horizon.total_steps, self.device),
            {key: self.settings[key] for key in ("seed", "samples", "graph")},
            found.state if found else None,
        )

    def _result(self, loop: Loop, signal: str) -> Result:
        quality, backbone = loop.quality, None
        if not signal:
            if quality is None and self.monitor is not None:
                quality = self.monitor.measure(self.method)
            backbone = self._export()
        floors = Floors(
            **self.settings.get("floors", {"untrained": None, "pixels": None, "chance": None})
        )
        return Result(
            self.folder.path, loop.step, loop.total, signal, loop.loss, quality, floors, backbone
        )

    def _export(self) -> Path | None:
        if OUTPUT not in self.method.plan.outputs:
            return None
        try:
            return export_backbone(self.method, self.folder.export, output=OUTPUT)
        except (ExportError, WriteError) as error:
            self.reporter.warn(f"no backbone was exported: {error}")
            return None

    def _tell(self, result: Result) -> None:
        if result.signal:
            found = checkpoint.latest(self.folder.checkpoints, self.reporter.warn)
            tell_interrupted(self.reporter, result, found.step if found else None)
            return
        unseen = self.monitor is not None and self.monitor.unseen
        tests = len(self.monitor.tests) if self.monitor is not None else 0
        tell_finished(
            self.reporter, result, unseen=unseen, tests=tests, target=self.settings["target"]
        )


def pick_device(name: str | None) -> torch.device:
    """The device of that name; without one the GPU if there is one, else the CPU.

    Raises:
        RunError: There is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise RunError(f"can't use device '{name}': {reason}; leave --device out") from error
    return device
