"""Slow copies and shared weights: what they compute, when they change, what reaches them."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph

STEPS = 6


def graph(**changes: Any) -> Any:
    """A student with batch norm, its slow copy, and the same head at a second place."""
    nodes: dict[str, dict[str, Any]] = {
        "views": {"use": "augment", "in": "batch.image", "views": 2, "size": 16, "ops": []},
        "encoder": {"use": "encoder", "in": "views", "arch": "test_resnet"},
        "projector": {"use": "projector", "in": "encoder.embedding", "hidden": [8], "out": 4},
        "target": {
            "use": "ema",
            "of": ["encoder", "projector"],
            "in": "views",
            "momentum": {"cosine": [0.5, 1.0]},
        },
        "again": {"use": "shared", "of": "projector", "in": "target.encoder.embedding"},
        "loss": {"use": "nt_xent", "in": ["projector", "target", "again"]},
    }
    for name, change in changes.items():
        nodes[name] = {**nodes.get(name, {}), **change}
    return sslgraph.load(
        {
            "sslgraph": 1,
            "name": "slow",
            "nodes": nodes,
            "minimize": {"loss": 1.0},
            "outputs": {"embedding": "target.encoder.embedding"},
            "train": {"steps": STEPS, "batch_size": 4},
        }
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 18, 18, generator=torch.Generator().manual_seed(0))


def ready(**changes: Any) -> Any:
    method = sslgraph.compile(graph(**changes))
    method.clock.set(total_steps=STEPS, steps_per_epoch=3)
    return method


def test_a_copy_follows_the_closed_form_of_its_schedule(images: Tensor) -> None:
    method = ready()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.05)
    name = "layers.0.weight"
    online = dict(method.nodes["projector"].named_parameters())[name]
    slow = dict(method.nodes["target"].members["projector"].named_parameters())[name]
    assert torch.equal(slow, online)
    expected = online.detach().double().clone()
    for step in range(STEPS):
        method({"image": images}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        momentum = 1 - (1 - 0.5) * (1 + math.cos(math.pi * step / STEPS)) / 2
        expected = momentum * expected + (1 - momentum) * online.detach().double()
        method.after_step()
        assert torch.allclose(slow.double(), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(slow, online)


@pytest.mark.parametrize(("momentum", "moves"), [(1.0, False), (0.0, True)])
def test_momentum_one_never_moves_and_zero_copies(momentum: float, moves: bool) -> None:
    source = sslgraph.node("projector", axes={"D": 3}, hidden=[4], out=2)
    slow: Any = sslgraph.node("ema", of=source, momentum=momentum)
    before = [p.clone() for p in slow.parameters()]
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
        slow.write()
    for own, old, other in zip(slow.parameters(), before, source.parameters(), strict=True):
        assert torch.equal(own, other if moves else old)


def test_one_step_of_the_rule() -> None:
    source = sslgraph.node("projector", axes={"D": 1}, hidden=[], out=1, bias=False)
    slow: Any = sslgraph.node("ema", of=source, momentum=0.99)
    with torch.no_grad():
        next(slow.parameters()).fill_(1.0)
        next(source.parameters()).fill_(3.0)
        slow.write()
    assert next(slow.parameters()).item() == pytest.approx(1.02)


def test_half_precision_keeps_a_momentum_near_one() -> None:
    source = sslgraph.node("projector", axes={"D": 1}, hidden=[], out=1, bias=False)
    slow: Any = sslgraph.node("ema", of=source, momentum=0.999).bfloat16()
    source.bfloat16()
    with torch.no_grad():
        next(slow.parameters()).fill_(0.0)
        next(source.parameters()).fill_(100.0)
        slow.write()
    assert next(slow.parameters()).item() == pytest.approx(
        0.1, rel=0.01
    )  # not 0: 1 - 0.999 in bf16


def test_buffers_are_the_copy_s_own(images: Tensor) -> None:
    method = ready(views={"ops": [{"crop": [0.3, 1]}]}, target={"in": "views.0"})
    norms = {
        side: [m for m in module.modules() if hasattr(m, "num_batches_tracked")]
        for side, module in {
            "online": method.nodes["encoder"],
            "slow": method.nodes["target"].members["encoder"],
        }.items()
    }
    method({"image": images}).loss.backward()
    method.after_step()
    assert [int(m.num_batches_tracked) for m in norms["online"]] == [2] * len(norms["online"])
    assert [int(m.num_batches_tracked) for m in norms["slow"]] == [1] * len(norms["slow"])
    kept = norms["slow"][0].running_mean.clone()
    method.nodes["target"].write()
    assert torch.equal(norms["slow"][0].running_mean, kept)
    assert not torch.equal(norms["online"][0].running_mean, kept)


def test_no_gradient_enters_or_passes_a_copy(images: Tensor) -> None:
    method = ready()
    views = torch.rand(2, 4, 3, 16, 16, requires_grad=True)
    values = method.run({"views": views}, ["target", "again"])
    (values["target"] + values["again"]).sum().backward()
    assert views.grad is None
    assert all(p.grad is None for p in method.nodes["target"].parameters())
    assert all(p.grad is None for p in method.nodes["encoder"].parameters())
    assert all(p.grad is not None for p in method.nodes["projector"].parameters())  # by `again`


def test_backward_after_the_write_is_that_before_it(images: Tensor) -> None:
    gradients = []
    for late in (False, True):
        method = ready()
        loss = method({"image": images}).loss
        if not late:
            loss.backward()
        method.after_step()
        if late:
            loss.backward()
        gradients.append([p.grad for p in method.nodes["encoder"].parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_shared_weights_are_the_original_s(images: Tensor) -> None:
    method = ready()
    assert list(method.nodes["again"].parameters()) == []
    assert not [key for key in method.state_dict() if key.startswith("nodes.again")]
    fed = torch.randn(2, 4, 96)
    shared = sslgraph.node("shared", of=method.nodes["projector"])
    assert torch.equal(shared(x=fed), method.nodes["projector"](fed))


def test_evaluation_writes_nothing_and_uses_the_copy(images: Tensor) -> None:
    method = ready()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    found = method.outputs({"image": images})["embedding"]
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    with torch.no_grad():
        for parameter in method.nodes["encoder"].parameters():
            parameter.add_(1)
    assert torch.equal(method.outputs({"image": images})["embedding"], found)


def test_accumulation_moves_the_copy_once(images: Tensor) -> None:
    method = ready(target={"momentum": 0.5})
    method.clock.set(total_steps=STEPS, steps_per_epoch=3, accumulate=2)
    slow, online = (next(m.parameters()) for m in (method.nodes["target"], method.nodes["encoder"]))
    with torch.no_grad():
        online.add_(1)
    before = slow.clone()
    for _ in range(2):
        method({"image": images}).loss.backward()
    assert torch.equal(slow, before)
    method.after_step()
    assert torch.allclose(slow, before + 0.5)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_method_follow_their_own_original(again: Any, images: Tensor) -> None:
    method = ready(target={"momentum": 0.0})
    other = again(method)
    with torch.no_grad():
        for parameter in other.nodes["encoder"].parameters():
            parameter.add_(1)
    other.nodes["target"].write()
    ours = next(method.nodes["target"].parameters())
    theirs = next(other.nodes["target"].parameters())
    assert torch.equal(theirs, next(other.nodes["encoder"].parameters()))
    assert torch.allclose(theirs, ours + 1)


def test_replaced_settings_are_the_copy_s_only() -> None:
    method = ready(
        encoder={"arch": "test_vit", "image_size": 16, "drop_path": 0.5}, target={"drop_path": 0}
    )
    assert "DropPath" in str(method.nodes["encoder"])
    assert "DropPath" not in str(method.nodes["target"])
    ours = dict(method.nodes["encoder"].named_parameters())
    for name, value in method.nodes["target"].members["encoder"].named_parameters():
        assert torch.equal(value, ours[name])


def test_a_replacement_that_changes_the_weights_is_refused() -> None:
    (problem,) = sslgraph.check(graph(target={"hidden": [16]}))
    assert problem.code == "E404"
    assert "other weights" in problem.title
    assert problem.span.line == 0 or "hidden" in str(problem)


def test_a_teacher_may_run_before_its_student(images: Tensor) -> None:
    """As where the teacher makes what its student sees: state leads back in time, no wire does."""
    method = ready(
        hint={"use": "projector", "in": "target", "hidden": [], "out": 96},
        projector={"in": ["encoder.embedding", "hint"]},
        again={"in": "encoder.embedding"},
        loss={"in": ["projector", "again"]},
    )
    order = [step.name for step in method.plan.steps]
    assert order.index("target") < order.index("projector")
    method({"image": images}).loss.backward()
    method.after_step()


def test_a_member_of_a_copy_can_be_named(images: Tensor) -> None:
    method = ready(again={"of": "target.projector", "in": "encoder.embedding"})
    method({"image": images}).loss.backward()
    assert all(p.grad is None for p in method.nodes["target"].parameters())


def test_a_schedule_within_a_copy_follows_the_run(images: Tensor) -> None:
    sharp = {"use": "sharpen", "in": "scores", "temperature": {"linear": [1.0, 0.5]}}
    method = ready(
        scores={"use": "prototypes", "in": "projector", "count": 3},
        sharp=sharp,
        target={"of": ["encoder", "projector", "scores", "sharp"]},
        loss={
            "use": "soft_cross_entropy",
            "in": {"prediction": "scores", "target": "target"},
        },
    )
    method({"image": images})
    method.after_step()
    method({"image": images})
    copied = method.nodes["target"].members["sharp"].temperature
    assert copied.item() < 1.0
    assert torch.equal(copied, torch.tensor(1 - 0.5 / STEPS))


def test_members_of_a_copy_as_a_chain(images: Tensor) -> None:
    """The slow copy's own encoder and head at a second place, without a second copy of them."""
    method = ready(again={"of": ["target.encoder", "target.projector"], "in": "views"})
    made = method.run({}, ["target", "again"], {"image": images})
    assert torch.equal(made["target"], made["again"])
    assert list(method.nodes["again"].parameters()) == []


def test_members_of_a_copy_that_do_not_follow_each_other() -> None:
    again = {"of": ["target.projector", "target.encoder"], "in": "encoder.embedding"}
    (problem,) = sslgraph.check(graph(again=again))
    assert problem.code == "E106"
    assert problem.help == "as in target: [target.encoder, target.projector]"


def test_ports_of_a_chain() -> None:
    plan = ready().plan
    declared = plan.step("target").declaration
    assert declared.required == ["image"]
    assert {"encoder.embedding", "encoder.tokens", "projector.y"} <= declared.outputs.keys()
    assert all(name.startswith(("encoder.", "projector.")) for name in declared.outputs)
    for text, port in {
        "target": "projector.y",
        "target.projector": "projector.y",
        "target.y": "projector.y",
        "target.encoder.tokens": "encoder.tokens",
    }.items():
        assert plan.wire(text).source == ("target", port)
    assert plan.kinds["target", "encoder.tokens"] == "tokens"
    assert plan.kinds["target", "projector.y"] == "embedding"
    assert plan.identities["target", "projector.y"] == ("views.0", "views.1")
