"""Evaluation writes nothing and gives the same twice; draws use no global generator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslgraph.method import Method
from sslgraph.proving.case import Case
from sslgraph.proving.compare import changed, state
from sslgraph.proving.result import BrokenError, InapplicableError, listed


def evaluation(case: Case) -> str:
    """`outputs` twice: equal to the last bit, one view, no weight or buffer changed."""
    if not case.plan.outputs:
        raise InapplicableError("the graph has no outputs")
    method = case.method().float()  # pixels become views in float32
    case.train(method, case.given(0).to(torch.float32))
    data = dict(case.given(1).to(torch.float32).data)
    before, modes, drawn = state(method), _modes(method), _generators()
    first = method.outputs(data)
    second = method.outputs(data)
    if drawn != _generators():
        raise BrokenError("evaluation drew from a global generator")
    written = changed(before, state(method))
    if written:
        node = written[0].removeprefix("nodes.").partition(".")[0]
        names = listed(name.removeprefix("nodes.") for name in written)
        raise BrokenError(f"evaluation wrote {names}", node)
    if modes != _modes(method):
        raise BrokenError("evaluation left modules in another mode than before")
    for name, value in first.items():
        node = case.plan.outputs[name].source[0]
        if not torch.equal(value, second[name]):
            difference = float((value - second[name]).abs().max())
            raise BrokenError(f"output {name} differs by {difference:.2g} the second time", node)
        if value.shape[0] != 1:
            raise BrokenError(f"output {name} has {value.shape[0]} views instead of one", node)
    return f"{listed(first)} equal twice, {len(before)} tensors as before"


def randomness(case: Case) -> str:
    """Equal batches have equal losses, and no node uses a global generator."""
    losses: list[Tensor] = []
    given = case.given()
    for seed in (1, 2):
        method = case.method()
        with torch.random.fork_rng(devices=[]), _drawing(method) as users:
            torch.default_generator.manual_seed(seed)
            losses.append(case.forward(method, given).loss.detach())
        if users:
            raise BrokenError(
                f"{listed(users)} drew from a global generator, with dropout and stochastic depth "
                "off: a sample's draws have to follow from its position",
                users[0],
            )
    if not torch.equal(*losses):
        one, other = (float(loss) for loss in losses)
        raise BrokenError(f"the loss of one batch is {one:.9g} and then {other:.9g}")
    return f"loss {float(losses[0]):.6g} for two states of the global generator"


@contextmanager
def _drawing(method: Method) -> Iterator[list[str]]:
    """Within it the nodes that use a global generator are written down, innermost first."""
    users: list[str] = []
    before: dict[str, tuple[Any, ...]] = {}
    handles = []

    def watch(name: str, node: nn.Module) -> None:
        def start(module: nn.Module, args: Any) -> None:
            before[name] = _generators()

        def end(module: nn.Module, args: Any, result: Any) -> None:
            if before[name] != _generators():
                users.append(name)

        handles.append(node.register_forward_pre_hook(start))
        handles.append(node.register_forward_hook(end))

    for name, node in method.nodes.items():
        watch(name, node)
    try:
        yield users
    finally:
        for handle in handles:
            handle.remove()


def _generators() -> tuple[Any, ...]:
    numbers: Any = np.random.get_state()
    return bytes(torch.get_rng_state()), random.getstate(), numbers[1].tobytes(), numbers[2]


def _modes(method: Method) -> list[bool]:
    return [module.training for module in method.modules()]
