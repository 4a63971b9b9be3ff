"""How much work a graph is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Work(TorchDispatchMode):
    """Counts the FLOP of what runs inside, forward and backward, by PyTorch's own formulas.

    PyTorch's `FlopCounterMode` also follows modules, by hooks that fail where a slow copy, which
    runs without gradients, takes a tensor that has one.

    Attributes:
        flops: What was counted so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's has no annotations
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and add what it costs where there is a formula for it."""
        named = kwargs or {}
        result = func(*args, **named)
        formula = flop_registry.get(getattr(func, "_overloadpacket", func))
        if formula is not None:
            self.flops += int(formula(*args, **named, out_val=result))
        return result
