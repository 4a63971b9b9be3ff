"""Numbers that follow the run: 0-d float32 buffers, whatever the precision of everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class Numbers(nn.Module):
    """A module some of whose buffers are numbers that keep float32.

    In bfloat16 a momentum of 0.9999 would be 1 and a schedule would move in steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: set[str] = set()

    def register_number(self, name: str, value: float | None) -> None:
        """Hold a number under this name, outside the state dict; None where there is none."""
        number = None if value is None else torch.tensor(value, dtype=torch.float32)
        self.register_buffer(name, number, persistent=False)
        self._exact.add(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: self._buffers[name] for name in self._exact}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, number in before.items():
            moved = self._buffers[name]
            if number is not None and moved is not None and moved.dtype != number.dtype:
                self._buffers[name] = number.to(moved.device)
        return self
