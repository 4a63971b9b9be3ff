"""First weights of a node from a safetensors file: which tensor goes where, or why none does.

Code: E406 weights that can't be read or do not fit
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sslgraph.nodes.shuffle import COUNTER

Shapes = dict[str, tuple[int, ...]]

# An exported backbone has the names of its timm model, which an encoder node holds under this name.
_MODEL = "model."
_SHOWN = 4


class WeightsError(ValueError):
    """A file of weights can't be read or does not fit; the text says which tensors."""


def matched(module: nn.Module, path: Path) -> dict[str, str]:
    """For each tensor of a module its name in the file; reads names and shapes only.

    Args:
        module: The node, on any device.
        path: A safetensors file with the node's own names, or those of its timm model.

    Raises:
        WeightsError: The file is missing or broken, or names or shapes differ.
    """
    there = _shapes(path)
    wanted = {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if name != COUNTER  # of shuffled batches, which are no weights
    }
    if not wanted:
        raise WeightsError("the node has no weights")
    names = {name: name if name in there else name.removeprefix(_MODEL) for name in wanted}
    missing = [name for name in wanted if names[name] not in there]
    unused = sorted(set(there) - set(names.values()) - {COUNTER})
    wrong = [
        f"{name} {list(there[names[name]])} in place of {list(shape)}"
        for name, shape in wanted.items()
        if names[name] in there and there[names[name]] != shape
    ]
    faults = [("missing", missing), ("not used", unused), ("of another shape", wrong)]
    lines = [f"{what}: {_some(found)}" for what, found in faults if found]
    if lines:
        raise WeightsError(f"{path.name} does not fit: " + "; ".join(lines))
    return names


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module's parameters and buffers from a file.

    Raises:
        WeightsError: See `matched`.
    """
    names = matched(module, path)
    state: Mapping[str, torch.Tensor] = module.state_dict()
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, there in names.items():
            state[name].copy_(file.get_tensor(there))


def _shapes(path: Path) -> Shapes:
    if not path.is_file():
        raise WeightsError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as failure:
        raise WeightsError(f"{path.name} is no safetensors file: {failure}") from failure


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
