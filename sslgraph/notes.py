"""What an error of a node says beside its traceback: which node, which line, which inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sslgraph.checks.references import Port
from sslgraph.emit import Emitted
from sslgraph.plan import Step


def note_failure(failure: Exception, sources: Mapping[str, Emitted]) -> None:
    """Add one note to an error that came out of emitted code; none if it came from elsewhere.

    Args:
        failure: The error, with its traceback.
        sources: Emitted code by the file name that its tracebacks have.
    """
    traceback = failure.__traceback__
    while traceback:
        source = sources.get(traceback.tb_frame.f_code.co_filename)
        step = source.lines.get(traceback.tb_lineno) if source else None
        if source and step:
            failure.add_note(_text(step, source.names, traceback.tb_frame.f_locals))
            return
        traceback = traceback.tb_next


def _text(step: Step, names: Mapping[Port, str], scope: Mapping[str, Any]) -> str:
    lines = [f"in node '{step.name}' ({step.declaration.use}), {step.span}"]
    for port, wires in step.inputs.items():
        for wire in wires:
            value = scope.get(names.get(wire.source, ""))
            if isinstance(value, Tensor):
                if wire.reference.sliced and value.shape[0] > 1:
                    value = value[wire.reference.start : wire.reference.stop]
                dtype = str(value.dtype).removeprefix("torch.")
                lines.append(f"  {port} = {wire.reference.text}: {dtype} {tuple(value.shape)}")
    return "\n".join(lines)
