"""Parts of a step against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslgraph.train.groups import parameter_groups
from sslgraph.train.optimizers import build_optimizer
from sslgraph.train.rates import Horizon
from sslgraph.train.step import Buffers, Updater
from sslgraph.train_spec import LearningRate
from tests.toys import TWO_VIEWS, compiled, images


def test_buffers_are_put_back() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    buffers = Buffers(module)
    module(torch.randn(4, 2))
    buffers.keep()
    kept = {name: value.clone() for name, value in module.named_buffers()}
    module(torch.randn(4, 2) + 7)
    changed = dict(module.named_buffers())
    assert not torch.equal(changed["0.running_mean"], kept["0.running_mean"])
    buffers.put_back()
    for name, value in module.named_buffers():
        assert torch.equal(value, kept[name])


def share(scope: object, name: str, names: list[str]) -> list[str]:
    """The parameters that have one norm together with `name`."""
    node = name.split(".")[1]
    if scope == "tensor":
        return [name]
    if scope == "run":
        return names
    clipped = scope == "node" or node == "head"
    return [other for other in names if other.split(".")[1] == node] if clipped else []


@pytest.mark.parametrize("scope", ["run", "tensor", "node", [["head"]]])
def test_a_step_clips_by_scope_and_records_the_whole_norm(scope: object) -> None:
    clip = {"norm": 1e-3, "scope": scope}
    method = compiled(TWO_VIEWS, train={"optimizer": "sgd", "momentum": 0, "clip": clip})
    method.train()
    method.clock.set(total_steps=4, steps_per_epoch=4)
    spec, horizon = method.graph.train, Horizon(4, 4)
    spec = spec.model_copy(update={"lr": LearningRate(peak=1.0, shape="constant")})
    groups = parameter_groups(method, method.parameters_by_node(), spec, {}, horizon)
    updater = Updater(method, build_optimizer(spec, groups), groups, spec, horizon, seed=0)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    done = updater.begin([{"image": images()}], 0)
    gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    whole = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert whole > 2e-3  # every scope has something to do
    assert updater.finish(done) == ""
    torch.testing.assert_close(done.norm, whole)
    moved = {n: before[n] - p.detach() for n, p in method.named_parameters() if n in gradients}
    for name, move in moved.items():
        expected = gradients[name]
        together = [gradients[other].norm() for other in share(scope, name, list(gradients))]
        if together:
            norm = torch.stack(together).norm()
            expected = expected * (1e-3 / (norm + 1e-6)).clamp(max=1)
        torch.testing.assert_close(move, expected, atol=1e-7, rtol=1e-4)
