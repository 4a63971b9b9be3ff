"""Running out of memory, in words."""

from __future__ import annotations

import torch

from sslgraph.train.failures import RunError
from sslgraph.train_spec import TrainSpec

_ON_CPU = ("can't allocate memory", "not enough memory")


def out_of_memory(error: BaseException, spec: TrainSpec, device: torch.device) -> RunError | None:
    """The error to show where `error` is about memory, else None.

    Args:
        error: What was raised in a step.
        spec: The run's settings, for what to change.
        device: Where the step ran.
    """
    full = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _ON_CPU)
    )
    if not full:
        return None
    where = f"the GPU ({device})" if device.type == "cuda" else "this machine"
    advice = [f"--set train.batch_size={max(1, spec.batch_size // 2)}"]
    if spec.amp == "none" and device.type == "cuda":
        advice.append("--set train.amp=bf16")
    parts = 2 * spec.accumulate
    if spec.batch_size % parts == 0:
        advice.append(
            f"--set train.accumulate={parts} (losses that compare the images of a batch then see "
            f"{spec.batch_size // parts} at a time)"
        )
    return RunError(
        f"{where} ran out of memory at a batch of {spec.batch_size // spec.accumulate}: "
        f"try {', or '.join(advice)}"
    )
