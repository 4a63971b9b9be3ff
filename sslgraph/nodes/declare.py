"""What is checked and written down when a node class is defined.

What does not hold together is a `TypeError` here, so a wrong node type can't be imported.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from sslgraph import registry
from sslgraph.checks.collapse import WORDS
from sslgraph.nodes.calls import ANY, rank_of, wrap_forward, wrap_write
from sslgraph.nodes.shuffle import COUNTER
from sslgraph.ports import Declaration, In, Out, Port
from sslgraph.schedules import Schedule

if TYPE_CHECKING:
    from sslgraph.nodes.base import Node

MOMENTS = ("batch", "step", "epoch")
COMMITS = ("step", "epoch")
GATHERS = ("no", "no_grad", "grad")
RESERVED_PORTS = frozenset({"config", "context", "built", "axes", "schedules", "limits", COUNTER})
RESERVED_SETTINGS = frozenset({"use", "in", "of", "train", "weights", "axes", "context", "config"})


def declare(cls: type[Node], use: str, base: type[Node]) -> None:
    """Check a node class, write down its declaration and register it.

    Args:
        cls: The class.
        use: Its name in YAML.
        base: The class that all node types come from.

    Raises:
        TypeError: The class does not hold together; the text says where.
    """
    inputs, outputs = _ports(cls, In), _ports(cls, Out)
    _check_config(cls, base)
    _check_ports(cls, base, inputs, outputs)
    _check_views(cls, inputs, outputs)
    _check_gathers(cls, inputs)
    _check_lists(cls, inputs)
    reads = [name for name, port in inputs.items() if port.is_read]
    written = [name for name, port in inputs.items() if port.is_written]
    if not cls.repeats:  # a node that repeats others has their inputs
        _check_signature(cls, "forward", reads)
        _check_signature(cls, "evaluate", reads)
    if written or "write" in cls.__dict__:
        _check_signature(cls, "write", written)
    if (cls.writes != "") != hasattr(cls, "write") or cls.writes not in ("", *MOMENTS):
        raise TypeError(
            f"{cls.__name__}: a node that writes has `write` and one of writes = {MOMENTS}"
        )
    if (cls.commits != "") != hasattr(cls, "commit") or cls.commits not in ("", *COMMITS):
        raise TypeError(
            f"{cls.__name__}: a node that commits has `commit` and one of commits = {COMMITS}"
        )
    if cls.commits and cls.writes != "batch":
        raise TypeError(f"{cls.__name__}: what is committed was written with writes = 'batch'")
    if written and cls.writes != "batch":
        raise TypeError(
            f"{cls.__name__}: `write` of writes = '{cls.writes}' takes no input, since the "
            "batch is over by then; keep what it needs with writes = 'batch', and use it in "
            "`commit`"
        )
    cls._read_axes = tuple((name, rank_of(inputs[name])) for name in reads)
    cls._open = all(rank == ANY for _, rank in cls._read_axes)
    cls._lifts = any(rank == ANY or not inputs[name].has_views for name, rank in cls._read_axes)
    if len(outputs) > 1:
        cls.Outputs = namedtuple(f"{cls.__name__}Outputs", outputs)  # type: ignore[misc]
    cls.declaration = _declaration(cls, use, base, inputs, outputs)
    if not cls.repeats:  # its members meet the view axis themselves
        wrap_forward(cls)
    if written and cls.gathers:
        wrap_write(cls, written)
    registry.add(cls.declaration)


def _declaration(
    cls: type[Node],
    use: str,
    base: type[Node],
    inputs: Mapping[str, In],
    outputs: Mapping[str, Out],
) -> Declaration:
    """What a class says of itself, for layers that never see the class."""
    return Declaration(
        use=use,
        summary=(inspect.getdoc(cls) or "").split("\n")[0],
        inputs=inputs,
        outputs=outputs,
        config=cls.Config,
        sample=cls.sample,
        family=cls.__module__,
        module=cls,
        writes=cls.writes,
        commits=cls.commits,
        draws=cls.draws,
        stops_gradient=cls.stops_gradient,
        is_loss=cls.is_loss,
        derives=_derives(cls, base),
        repeats=cls.repeats,
        replaces=cls.replaces,
        learns=_learns(cls, base),
        attracts=_attracts(cls, inputs),
        prevents=_prevents(cls),
        guards=cls.guards,
        ports=cls.ports,
        identities=cls.identities,
        review=cls.review,
        pairs=cls.pairs,
        mask_counts=cls.mask_counts,
        even=cls.even,
        largest_crop=cls.largest_crop,
    )


def _derives(cls: type[Node], base: type[Node]) -> bool:
    """Whether a class makes its ports from settings or members."""
    return cls.ports.__func__ is not base.ports.__func__  # type: ignore[attr-defined]


def _learns(cls: type[Node], base: type[Node]) -> bool:
    """Whether it has weights: what it says, else whether it builds what is likely to be some."""
    if cls.learns is not None:
        return cls.learns
    without = cls.writes or cls.draws or cls.repeats or cls.is_loss
    return cls.build is not base.build and not without


def _prevents(cls: type[Node]) -> str:
    if cls.prevents and cls.prevents not in WORDS:
        known = ", ".join(sorted(WORDS))
        raise TypeError(
            f"{cls.__name__}.prevents = '{cls.prevents}': no such word, use one of {known}"
        )
    return cls.prevents


def _attracts(cls: type[Node], inputs: Mapping[str, In]) -> tuple[str, str] | tuple[()]:
    unknown = [name for name in cls.attracts if name not in inputs]
    if unknown or len(cls.attracts) not in (0, 2):
        raise TypeError(f"{cls.__name__}.attracts names two of its inputs, got {cls.attracts}")
    return cls.attracts


def _ports(cls: type[Node], kind: type[Port]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, kind):
                value.name = name
                found[name] = value
            elif name in found:
                del found[name]
    return found


def _check_ports(
    cls: type[Node], base: type[Node], inputs: Mapping[str, In], outputs: Mapping[str, Out]
) -> None:
    if not outputs and not _derives(cls, base):
        raise TypeError(f"{cls.__name__} declares no output: add a class attribute `y = Out(...)`")
    if sum(port.main for port in outputs.values()) > 1:
        raise TypeError(f"{cls.__name__} declares two main outputs")
    variables = {port.kind.variable for port in inputs.values()} - {""}
    for name, port in {**inputs, **outputs}.items():
        if hasattr(base, name) or name in RESERVED_PORTS:
            raise TypeError(f"{cls.__name__}.{name}: nodes use this name themselves; take another")
        if name in cls.Config.model_fields:
            raise TypeError(f"{cls.__name__}.{name}: a setting has this name too; take another")
        for axis in port.axes:
            if axis[0].islower() and axis not in cls.Config.model_fields:
                raise TypeError(
                    f"{cls.__name__}.{name}: axis '{axis}' is not a field of {cls.__name__}.Config "
                    "(lower case means the value of a setting; use upper case for a free axis)"
                )
        if isinstance(port, Out) and port.kind.variable and port.kind.variable not in variables:
            raise TypeError(f"{cls.__name__}.{name}: no input has the kind {port.kind.variable}")


def _check_views(cls: type[Node], inputs: Mapping[str, In], outputs: Mapping[str, Out]) -> None:
    """A node is lifted as a whole: every port spells the view axis, or none with a batch."""
    lifted = [name for name, port in inputs.items() if not port.has_views]
    if not lifted:
        return
    for name, port in {**inputs, **outputs}.items():
        alone = isinstance(port, In) and "B" not in port.axes
        if port.has_views and port.axes[:1] != ("...",) and not alone:
            raise TypeError(
                f"{cls.__name__}.{name}: '{' '.join(port.axes)}' does not fit beside "
                f"'{' '.join(inputs[lifted[0]].axes)}' of {lifted[0]}, which is taken one view "
                "at a time; begin either all axes with B or all with V B"
            )
    written = next((name for name in lifted if inputs[name].is_written), None)
    if written:
        raise TypeError(
            f"{cls.__name__}.{written}: what is written comes with all views; begin with V"
        )


def _check_gathers(cls: type[Node], inputs: Mapping[str, In]) -> None:
    for name, mode in cls.gathers.items():
        if name not in inputs or mode not in GATHERS or "B" not in inputs[name].axes:
            raise TypeError(
                f"{cls.__name__}.gathers: '{name}': '{mode}' is not an input with an axis B "
                f"and one of {', '.join(GATHERS)}"
            )


def _check_lists(cls: type[Node], inputs: Mapping[str, In]) -> None:
    """A list that is not joined is the one thing that a node takes."""
    for name, port in inputs.items():
        if port.variadic == "no":
            continue
        if len(inputs) > 1 or port.axes[:1] != ("V",) or not port.required or port.is_written:
            raise TypeError(
                f"{cls.__name__}.{name}: a variadic input is the only input, required, read, and "
                "its axes begin with V"
            )


def _check_config(cls: type[Node], base: type[Node]) -> None:
    if not issubclass(cls.Config, base.Config):
        raise TypeError(f"{cls.__name__}.Config: write `class Config(Node.Config)`")
    for name, info in cls.Config.model_fields.items():
        if name in RESERVED_SETTINGS:
            raise TypeError(f"{cls.__name__}.Config.{name}: the language uses this word itself")
        if is_number(info.annotation) and hasattr(nn.Module, name):
            raise TypeError(
                f"{cls.__name__}.Config.{name}: torch modules use this name; take another"
            )


def _check_signature(cls: type[Node], method: str, names: list[str]) -> None:
    function = getattr(cls, method, None)
    if method == "evaluate" and function is None:
        return
    if function is None or (method == "forward" and function is nn.Module.forward):
        raise TypeError(f"{cls.__name__} has no {method}({', '.join(names)})")
    function = inspect.unwrap(function)
    taken = [name for name in inspect.signature(function).parameters if name != "self"]
    if sorted(taken) != sorted(names):
        raise TypeError(
            f"{cls.__name__}.{method} takes {taken} but the class declares inputs {names}"
        )


def asked_axes(cls: type[Node]) -> tuple[str, ...]:
    """The axes whose sizes a class needs to be built."""
    named = inspect.signature(cls.build).parameters.values()
    return tuple(p.name for p in named if p.name != "self" and p.kind == p.POSITIONAL_OR_KEYWORD)


def is_number(annotation: Any) -> bool:
    """Whether a setting of this type is a number that may follow the run."""
    parts = get_args(annotation)
    return Schedule in parts or any(is_number(part) for part in parts)
