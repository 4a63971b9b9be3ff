"""Saying that a loss stands where a network that tells nothing apart would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sslgraph.method import Method
from sslgraph.nodes.base import Node

_NEAR = 0.01


class ChanceWatch:
    """Counts for how many steps each loss has been at its chance level.

    The level depends on the sizes of a loss's inputs, which the first forward pass shows.

    Args:
        method: Its losses are watched, those that declare a level.
    """

    def __init__(self, method: Method) -> None:
        self.levels: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        for name, port in method.plan.losses.items():
            node = method.nodes[port[0]]
            if callable(getattr(node, "chance", None)):
                self._hooks[name] = node.register_forward_pre_hook(
                    self._looking_at(name), with_kwargs=True
                )

    def see(self, step: int, terms: Mapping[str, float]) -> None:
        """Take the losses after `step` steps."""
        for name, level in self.levels.items():
            near = abs(terms[name] - level) <= _NEAR * abs(level)
            if not near:
                self.steps[name] = step

    def stuck(self, step: int, least: int) -> list[str]:
        """A sentence for each loss that has been at chance for at least `least` steps."""
        return [
            f"loss '{name}' has been at chance ({level:.3g}) for {step - self.steps[name]} steps"
            for name, level in self.levels.items()
            if step - self.steps[name] >= least
        ]

    def start(self, step: int) -> None:
        """Count from this step on."""
        self.steps = dict.fromkeys(self._hooks, step)

    def _looking_at(self, name: str) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self._hooks[name].remove()
            assert isinstance(module, Node)
            values = dict(zip(module.declaration.reads, args, strict=False)) | keywords
            tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
            level = module.chance(module.bound_axes(tensors))  # type: ignore[operator]
            if level is not None:
                self.levels[name] = float(level)

        return look
