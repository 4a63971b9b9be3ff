"""A finished run as one node: its graph in evaluation, with the weights of its last checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from sslgraph.check_sizes import measure
from sslgraph.checks.references import DATA
from sslgraph.command import command
from sslgraph.errors import errors_of
from sslgraph.make import make_modules
from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.mapping import Nodes
from sslgraph.nodes.runs import RunPart, plan_of
from sslgraph.ports import Identities, In, Member, Ports
from sslgraph.saved import CHECKPOINTS, GRAPH, METHOD, DamagedError, checkpoints, read
from sslgraph.schedules import fault
from sslgraph.walk import value_of, walk


class Frozen(Node, use="frozen"):
    """A method of a finished run, as a teacher or tokenizer (distillation, BEiT).

    Images take the place of the views that the run's graph makes, so they have the size and the
    normalisation of those views. The graph runs as for its `outputs`: masks hide nothing, batch
    norm uses running statistics, nothing is written, whatever the mode of the method around it. Its
    weights come from the run's last checkpoint; they are never trained and no gradient passes.

    Shapes: image V B C H W -> the `outputs` of the run's graph and what `fetch` names, each with
    the same V and B.
    """

    image = In("image", "B C H W")
    stops_gradient = True
    learns = False
    sample = {"run": "runs/teacher-001"}

    class Config(Node.Config):
        """Settings.

        Attributes:
            run: Folder of the run; a relative path begins where the command is started.
            fetch: Further outputs of nodes of the run's graph, such as `teacher.encoder.tokens`;
                each is an output of the same name, and the first one is the main output.
        """

        run: str
        fetch: list[str] | str = Field([], validate_default=True)

        @field_validator("run")
        @classmethod
        def _usable(cls, run: str) -> str:
            plan_of(run)
            if not checkpoints(Path(run) / CHECKPOINTS):
                raise fault(
                    f"run {run} has no checkpoint, so there are no weights",
                    help=f"train it: {command()} run --resume {run}",
                )
            return run

        @field_validator("fetch")
        @classmethod
        def _there(cls, fetch: list[str] | str, info: ValidationInfo) -> list[str] | str:
            if "run" in info.data:
                RunPart.of(info.data["run"], fetch)
            return fetch

    @classmethod
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """An image, and the outputs of the run's graph."""
        return Ports(cls.declaration.inputs, RunPart.of(config.run, config.fetch).outputs)

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """Every output has the views of the image."""
        return dict.fromkeys(RunPart.of(config.run, config.fetch).outputs, inputs["image"])

    def build(self, C: int, H: int, W: int) -> None:
        """Build the run's nodes and load their weights."""
        self._part = part = RunPart.of(self.config.run, self.config.fetch)
        plan = part.plan
        _require(plan.graph.data.batch.channels, C, "channels")
        sizes = measure(plan)
        wrong = errors_of(sizes.problems)
        if wrong:
            raise SettingError(
                f"the graph of run {self.config.run} has errors: {wrong[0].title}",
                path=("run",),
                help=f"see them all: {command()} check {Path(self.config.run) / GRAPH}",
            )
        modules = make_modules(plan, 0, sizes.axes)
        for side in part.sides(modules):
            _require(f"{side} x {side}", f"{H} x {W}", "pixels")
        self.nodes = Nodes({step.name: modules[step.name] for step in part.steps})
        self._refuse_schedules()
        self._load()
        self.nodes.requires_grad_(requires_grad=False).eval()

    def forward(self, image: Tensor) -> Any:
        """The outputs for a batch of images."""
        index = torch.arange(len(image), device=image.device)
        given = {port: image.unsqueeze(0) for port in self._part.entries}
        given |= {(DATA, "image"): image.unsqueeze(0), (DATA, "index"): index.unsqueeze(0)}
        wires = self._part.wires.values()
        ports = [wire.source for wire in wires]
        with torch.no_grad():
            found = walk(self._part.plan, self.nodes, given, ports, evaluating=True)
        values = [value_of((wire,), found, evaluating=True)[0] for wire in wires]
        return values[0] if len(values) == 1 else self.Outputs(*values)

    def train(self, mode: bool = True) -> Frozen:
        """Set the mode of this node; the run's nodes stay in evaluation."""
        super().train(mode)
        if self.built:
            self.nodes.eval()
        return self

    def _refuse_schedules(self) -> None:
        """A number that followed the run would have its first value here, not its last."""
        for name, module in self.nodes.items():
            for part in module.modules():
                if isinstance(part, Node) and part.schedules and not part.declaration.writes:
                    raise SettingError(
                        f"{name}.{min(part.schedules)} follows its run, so its value is not known",
                        path=("run",),
                        help=f"fetch what comes before {name}, and put its like into this graph",
                    )

    def _load(self) -> None:
        """Fill the nodes from the run's last checkpoint; on the meta device see that it fits."""
        run = self.config.run
        newest = checkpoints(Path(run) / CHECKPOINTS)[-1]
        try:
            saved = read(newest).state[METHOD]
        except (DamagedError, KeyError) as damage:
            raise SettingError(
                f"checkpoint {newest} is damaged: {damage}",
                path=("run",),
                help=f"go on from the one before: {command()} run --resume {run}",
            ) from damage
        own = self.nodes.state_dict()
        there = {name: saved.get(f"nodes.{name}") for name in own}
        for name, value in own.items():
            found = there[name]
            if found is None or found.shape != value.shape:
                raise SettingError(
                    f"checkpoint {newest} does not fit {GRAPH}, which was changed since",
                    path=("run",),
                    expected=f"{name} {list(value.shape)}",
                    got="none" if found is None else f"{name} {list(found.shape)}",
                    help="undo the change",
                )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(there[name])


def _require(expected: object, got: object, what: str) -> None:
    if expected != got:
        raise SettingError(
            f"the run was trained on views of {expected} {what}",
            path=("run",),
            expected=f"images of {expected} {what}",
            got=f"{got} {what}",
            help="make views like the run's own for it",
        )
