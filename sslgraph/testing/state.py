"""Properties of what a node keeps: settings, weights, memory."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn

from sslgraph.testing.subject import Subject


def evaluation(subject: Subject) -> str:
    """In evaluation a call is repeatable and writes nothing; a node that makes views makes one."""
    node, inputs = subject.node().eval(), subject.inputs()
    if not subject.suits(1) and not subject.takes_views:
        return "the node suits no evaluation"
    before = _everything(node)
    first, second = subject.run(node, inputs), subject.run(node, inputs)
    for name, value in _everything(node).items():
        if not torch.equal(value, before[name]):
            subject.fail("evaluation writes nothing", f"{name} was changed", "no change")
    for name, value in first.items():
        if not torch.equal(value, second[name]):
            subject.fail("evaluation", f"two equal calls differ in {name}", "equal outputs")
        axes = subject.declaration.outputs[name].axes
        made = bool(axes) and axes[0][0].islower()
        if subject.declaration.draws and made and value.shape[0] != 1:
            subject.fail(
                f"evaluation of output {name}", f"{value.shape[0]} views", "one clean view"
            )
    return ""


def writing(subject: Subject) -> str:
    """A write changes the state, but nothing that was read before, which backward still needs."""
    if not subject.declaration.writes:
        return "the node writes nothing"
    node, inputs = subject.node(), subject.inputs()
    for value in subject.reads(inputs).values():
        if value.is_floating_point():
            value.requires_grad_()
    handed = subject.run(node, inputs)
    kept = {name: value.detach().clone() for name, value in handed.items()}
    before = _everything(node)
    with torch.no_grad():
        node.write(**subject.written(inputs))  # type: ignore[operator]
    for name, value in handed.items():
        if not torch.equal(value, kept[name]):
            subject.fail("writing", f"{name}, read before, was changed by the write", "no change")
    if subject.written(inputs) and all(
        torch.equal(v, before[k]) for k, v in _everything(node).items()
    ):
        subject.fail("writing", "a write that changes no buffer", "state in buffers")
    total = sum(value.sum() for value in handed.values() if value.requires_grad)
    if isinstance(total, Tensor):
        try:
            total.backward()
        except RuntimeError as failure:
            subject.fail("writing", f"backward after the write fails: {failure}", "a gradient")
    return ""


def learning(subject: Subject) -> str:
    """A type says whether it has weights, since some checks ask before anything is built."""
    if subject.declaration.repeats:
        return "its weights are those of other nodes"
    node = subject.node()
    weights = [
        name
        for name, parameter in node.named_parameters()
        if parameter.requires_grad and name not in node.limits
    ]
    if bool(weights) != subject.declaration.learns:
        found = f"weights ({', '.join(weights[:4])})" if weights else "no weights"
        subject.fail("learning", found, f"`learns = {bool(weights)}` on the class")
    return ""


def settings_kept(subject: Subject) -> str:
    """Settings written out and read again are equal; they have a JSON schema."""
    config = subject.config
    data = config.model_dump(mode="json", by_alias=True)
    again = subject.declaration.config.model_validate(data)
    if again != config:
        subject.fail("settings survive a round trip", again, config)
    schema = subject.declaration.config.model_json_schema()
    missing = set(data) - set(schema.get("properties", {}))
    if missing:
        subject.fail("settings have a JSON schema", f"none for {sorted(missing)}", "one for each")
    return ""


def state_kept(subject: Subject) -> str:
    """A state dict holds all that a run changes: loaded into a fresh node, it goes on the same."""
    used, fresh = subject.node(seed=1), subject.node(seed=1)
    for step in range(2):
        inputs = subject.inputs(seed=step)
        subject.run(used, inputs)
        if subject.declaration.writes:
            with torch.no_grad():
                used.write(**subject.written(inputs))  # type: ignore[operator]
    with torch.no_grad():
        for value in [*used.parameters(), *_persistent(fresh)]:
            value.add_(1)
    fresh.load_state_dict(used.state_dict())
    inputs = subject.inputs(seed=7)
    for training in (False, True):
        expected = subject.run(used.train(training), inputs)
        found = subject.run(fresh.train(training), inputs)
        for name, value in expected.items():
            if not torch.equal(value, found[name]):
                subject.fail("state", f"{name} differs after load_state_dict", "equal outputs")
    return ""


def copies(subject: Subject) -> str:
    """A deep copy and a pickled copy give the same and share nothing."""
    node, inputs = subject.node(), subject.inputs()
    try:
        pickled = pickle.loads(pickle.dumps(node))
    except (pickle.PicklingError, AttributeError, TypeError) as failure:
        subject.fail("copies", f"no pickle: {failure}", "a class and parts at the top of a module")
    clones = {"a deep copy": copy.deepcopy(node), "a pickled copy": pickled}
    expected = subject.run(subject.node(), inputs)
    for what, clone in clones.items():
        for name, value in subject.run(clone, inputs).items():
            if not torch.equal(value, expected[name]):
                subject.fail("copies", f"{what} gives another {name}", "equal outputs")
        own = {
            tensor.data_ptr()
            for tensor in _everything(node, clone=False).values()
            if tensor.numel()
        }
        shared = [k for k, t in _everything(clone, clone=False).items() if t.data_ptr() in own]
        if shared:
            subject.fail("copies", f"{what} shares {shared[0]}", "memory of its own")
    return ""


def _everything(node: nn.Module, *, clone: bool = True) -> dict[str, Tensor]:
    state = {**dict(node.named_parameters()), **dict(node.named_buffers())}
    return {name: value.detach().clone() if clone else value for name, value in state.items()}


def _persistent(node: nn.Module) -> list[Tensor]:
    """The buffers of the state dict, which are the live tensors."""
    kept = node.state_dict(keep_vars=True)
    return [value for name, value in node.named_buffers() if name in kept]
