"""Recomputation: activations inside a node are not kept for backward but computed once more.

What is computed again are the node's repeated blocks (residual blocks, transformer blocks), each
alone, so at most one block's activations live at a time; of a node without any, its chains of
layers (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.repeats import Again

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute(node: Node) -> None:
    """Let a node compute its blocks again in backward; in evaluation nothing changes.

    Random numbers are the same the second time, and running statistics are written only once, so
    loss, gradients and buffers are bit-equal to those without it.

    Args:
        node: A built node.

    Raises:
        SettingError: The node keeps a state, draws or is a loss, or has no blocks.
    """
    reason = _reason_against(node)
    blocks = [] if reason else list(_blocks(node))
    if not blocks:
        raise SettingError(
            f"{node.declaration.use} can't be recomputed: "
            + (reason or "it has neither blocks nor chains of layers"),
            path=("train", "recompute"),
            help="delete 'recompute' (with 'null' where it is inherited)",
        )
    for block in blocks:
        block.forward = Recomputed(block)


class Recomputed:
    """The forward of a module, without keeping what lies inside for backward.

    Args:
        module: The module; its class computes.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """The module's output."""
        forward = type(self.module).forward
        if not (self.module.training and torch.is_grad_enabled()):
            return forward(self.module, *args, **keywords)
        return checkpoint(
            forward,
            self.module,
            # A caller may add to its list before backward, as dense blocks do.
            *(value.copy() if isinstance(value, list) else value for value in args),
            use_reentrant=False,
            preserve_rng_state=True,
            context_fn=_first_and_again,
            **keywords,
        )


def _first_and_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), Again()


def _reason_against(node: Node) -> str:
    declaration = node.declaration
    if declaration.writes:
        return "it keeps a state, which may have changed when backward computes it again"
    if declaration.draws:
        return "it draws at random, and draws are made once a step"
    return "a loss keeps next to nothing for backward" if declaration.is_loss else ""


def _blocks(module: nn.Module, *, member: bool = False) -> Iterator[nn.Module]:
    """The innermost repeated parts that are modules of several layers, and chains of layers."""
    if any(_repeats(inner) for inner in module.modules()):
        for child in module.children():
            yield from _blocks(child, member=_repeats(module))
    elif isinstance(module, nn.Sequential) or (member and _is_whole(module)):
        if any(True for _ in module.parameters()):
            yield module
    else:
        for child in module.children():
            yield from _blocks(child)


def _repeats(module: nn.Module) -> bool:
    """Whether a module holds blocks and nothing else: in a container, or several of one class."""
    parts = list(module.children())
    alike = len(parts) > 1 and len(set(map(type, parts))) == 1
    return bool(parts) and all(map(_is_whole, parts)) and (isinstance(module, _CONTAINERS) or alike)


def _is_whole(module: nn.Module) -> bool:
    """Whether a module consists of several and is called itself, as a bare list is not."""
    return any(True for _ in module.children()) and type(module).forward is not nn.Module.forward
