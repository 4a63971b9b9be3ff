"""The base class of every node type: ports, settings, build, and how a call meets the view axis.

A node type is a class with ports as class attributes, a frozen pydantic `Config`, `build` for its
parameters and `forward` for its computation. What does not hold together is an error when the class is
defined, so a wrong node can't be imported and never be wired.
"""

from __future__ import annotations

import functools
import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from sslgraph import registry
from sslgraph.errors import did_you_mean
from sslgraph.hashing import text_key
from sslgraph.nodes.batch_norm import replace_batch_norms, statistics_apart
from sslgraph.nodes.ranks import gather, world_size
from sslgraph.ports import Declaration, Identities, In, Out, Port, bind_axes
from sslgraph.schedules import Learned, Schedule
from sslgraph.spec import BatchNormSpec

MOMENTS = ("batch", "step", "epoch")
GATHERS = ("no", "no_grad", "grad")
ANY = -1
RESERVED_PORTS = frozenset({"config", "context", "built", "schedules", "limits"})
RESERVED_SETTINGS = frozenset({"use", "in", "of", "train", "weights", "axes", "context"})


class SettingError(ValueError):
    """A setting that is valid alone but not with what the wires bring.

    Args:
        text: What is wrong.
        path: Place inside the node's settings, such as ``("ops", 2)``.
        expected: What would be right.
        got: What was found.
        help: What to do.
    """

    def __init__(
        self,
        text: str,
        *,
        path: tuple[str | int, ...] = (),
        expected: str = "",
        got: str = "",
        help: str = "",
    ) -> None:
        super().__init__(text)
        self.path, self.expected, self.got, self.help = path, expected, got, help


@dataclass(frozen=True)
class Context:
    """What a graph tells each of its nodes.

    Args:
        name: The node's name in the graph; draws and initial weights are keyed by it.
        seed: The run's seed.
        batch_norm: The run's rule for batch statistics, where the node sets none.
    """

    name: str = "node"
    seed: int = 0
    batch_norm: BatchNormSpec = field(default_factory=BatchNormSpec)

    def key(self) -> int:
        """A 63-bit key of this node in this run."""
        return text_key(f"{self.seed}/{self.name}") & (2**63 - 1)


class Node(nn.Module):
    """Base class of node types.

    Subclass with ``class MyNode(Node, use="my_node")``. Ports are class attributes (`In`, `Out`);
    `forward` takes exactly the inputs that are read, in any order of names, and returns the output, or
    ``self.Outputs(...)`` where there are several. Ports declared without a view axis (``B D``) are lifted:
    views are folded into the batch, or taken one at a time where batch statistics are per view.

    A number that may change over a run (a setting that accepts a `Schedule`) is a 0-d float32 buffer
    under the setting's name; the clock fills it in place.
    """

    class Config(BaseModel):
        """Settings of the node; unknown ones are refused."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    declaration: ClassVar[Declaration]
    Outputs: ClassVar[Callable[..., Any]]
    sample: ClassVar[Mapping[str, Any]] = {}
    sample_axes: ClassVar[Mapping[str, int]] = {}
    writes: ClassVar[str] = ""
    gathers: ClassVar[Mapping[str, str]] = {}
    draws: ClassVar[bool] = False
    stops_gradient: ClassVar[bool] = False
    is_loss: ClassVar[bool] = False

    _lifts: ClassVar[bool] = False
    _open: ClassVar[bool] = False
    _read_axes: ClassVar[tuple[tuple[str, int], ...]] = ()

    def __init_subclass__(cls, use: str = "", **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if use:
            _define(cls, use)

    def __init__(
        self,
        *,
        axes: Mapping[str, int] | None = None,
        context: Context | None = None,
        **settings: Any,
    ) -> None:
        """Make the node.

        Args:
            axes: Sizes of the input axes that `build` asks for; without them the first call tells.
            context: The node's place in a graph.
            **settings: The settings of `Config`.

        Raises:
            ValueError: A setting is unknown, missing or out of bounds.
        """
        super().__init__()
        self.config = _configured(type(self), settings)
        self.context = context or Context()
        self.schedules: dict[str, Schedule] = {}
        self.limits: dict[str, tuple[float | None, float | None]] = {}
        self._apart = False
        self._register_numbers()
        self.built = False
        if axes is not None or not _asked_axes(type(self)):
            self.build_with(axes or {})
        else:
            self._first_call = self.register_forward_pre_hook(_build_at_first_call, with_kwargs=True)

    # -- to override ------------------------------------------------------------------------------

    def build(self) -> None:
        """Make parameters and buffers; the parameters of an override name the axes it needs."""

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """For each output the crops that its views came from.

        Outputs keep the identities of the input with most views; an output whose first axis is a setting
        or a number makes that many new ones, and one of a node without views has the node's name.
        """
        longest = max(inputs.values(), key=len, default=()) or (name,)
        made = {}
        for output, port in cls.declaration.outputs.items():
            first = port.on_the_wire()[0] if port.axes else ""
            if first[:1].islower() or first.isdigit():
                count = int(first) if first.isdigit() else getattr(config, first)
                made[output] = tuple(f"{name}.{i}" for i in range(count))
            else:
                made[output] = longest if port.axes else ()
        return made

    @classmethod
    def review(cls, config: Any, inputs: Mapping[str, Identities]) -> str:
        """What does not fit between settings and the views that come in, or ''."""
        return ""

    @classmethod
    def largest_crop(cls, config: Any) -> int | None:
        """Pixels of the side of the largest view that this node makes; None if it makes none."""
        return None

    def sizes(self, *shapes: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...] | None:
        """Shapes of the outputs for shapes of the inputs, where a run on the meta device can't tell."""
        return None

    # -- machinery --------------------------------------------------------------------------------

    def build_with(self, axes: Mapping[str, int]) -> None:
        """Make the parameters for these axis sizes, from a generator keyed by seed and node name."""
        asked = _asked_axes(type(self))
        missing = [axis for axis in asked if axis not in axes]
        if missing:
            raise ValueError(f"{self.declaration.use} needs the size of {', '.join(missing)}")
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(self.context.key())
            self.build(**{axis: axes[axis] for axis in asked})
        ports = {**self.declaration.inputs, **self.declaration.outputs}
        for name in ports.keys() & {*self._modules, *self._parameters, *self._buffers}:
            raise TypeError(f"{type(self).__name__}.build sets self.{name}, but a port has that name")
        rule = getattr(self.config, "batch_norm", None) or self.context.batch_norm
        replace_batch_norms(self, rule)
        self._apart = statistics_apart(self)
        self.built = True

    def _register_numbers(self) -> None:
        for name, info in type(self.config).model_fields.items():
            if not _is_number(info.annotation):
                continue
            value = getattr(self.config, name)
            if isinstance(value, Learned):
                self.register_parameter(name, nn.Parameter(torch.tensor(float(value.learned))))
                self.limits[name] = (value.min, value.max)
                continue
            if isinstance(value, Schedule):
                self.schedules[name] = value
                value = value.value(0, 1, 1)
            number = None if value is None else torch.tensor(float(value), dtype=torch.float32)
            self.register_buffer(name, number, persistent=False)

    @torch.no_grad()
    def clamp_learned(self) -> None:
        """Cut learned numbers to their limits; called after each optimizer step."""
        for name, (low, high) in self.limits.items():
            if low is not None or high is not None:
                getattr(self, name).clamp_(low, high)

    def bound_axes(self, values: Mapping[str, Tensor]) -> dict[str, int]:
        """Axis sizes that these inputs bind, for a node that is called outside a graph."""
        bound: dict[str, tuple[int, str]] = {}
        for name, value in values.items():
            port = self.declaration.inputs[name]
            shape = tuple(value.shape)
            if not port.has_views and len(shape) == len(port.axes):
                shape = (1, *shape)
            wrong = bind_axes(port, shape, bound, self.config.__dict__)
            if wrong:
                raise ValueError(
                    f"{self.declaration.use}.{name} takes {port}, got a tensor of shape "
                    f"{tuple(value.shape)}"
                )
        return {axis: size for axis, (size, _) in bound.items()}

    def _call_lifted(self, call: Callable[..., Any], values: tuple[Tensor | None, ...]) -> Any:
        with_views = [
            value is not None and _has_view_axis(value, rank)
            for value, (_, rank) in zip(values, self._read_axes, strict=True)
        ]
        apart = self._apart and self.training
        if not any(with_views) or (self._open and not apart):
            return call(self, *values)
        views = max(v.shape[0] for v, has in zip(values, with_views, strict=True) if has and v is not None)
        if views == 1:
            flat = [v[0] if has and v is not None else v for v, has in zip(values, with_views, strict=True)]
            return self._each_output(call(self, *flat), lambda y: y.unsqueeze(0))
        if apart:
            return self._one_view_at_a_time(call, values, with_views, views)
        flat = [
            v.expand(views, *v.shape[1:]).flatten(0, 1) if has and v is not None else v
            for v, has in zip(values, with_views, strict=True)
        ]
        return self._each_output(call(self, *flat), lambda y: y.unflatten(0, (views, -1)))

    def _one_view_at_a_time(
        self,
        call: Callable[..., Any],
        values: tuple[Tensor | None, ...],
        with_views: list[bool],
        views: int,
    ) -> Any:
        results = []
        for view in range(views):
            one = [
                v[min(view, v.shape[0] - 1)] if has and v is not None else v
                for v, has in zip(values, with_views, strict=True)
            ]
            results.append(call(self, *one))
        if len(self.declaration.outputs) == 1:
            return torch.stack(results)
        return self.Outputs(*(torch.stack(parts) for parts in zip(*results, strict=True)))

    def _each_output(self, result: Any, change: Callable[[Tensor], Tensor]) -> Any:
        if len(self.declaration.outputs) == 1:
            return change(result)
        return self.Outputs(*(change(part) for part in result))

    def _gathered(
        self, names: list[str], values: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        done = []
        for name, value in zip(names, values, strict=True):
            mode = self.gathers.get(name, "no")
            axes = self.declaration.inputs[name].axes
            if value is not None and mode != "no":
                value = gather(value, axes.index("B") - len(axes), grad=mode == "grad")
            done.append(value)
        return tuple(done)

    def extra_repr(self) -> str:
        """The settings, for `print(method)`."""
        return ", ".join(f"{k}={v!r}" for k, v in self.config.model_dump(exclude_defaults=True).items())


def make_node(use: str, *, axes: Mapping[str, int] | None = None, **settings: Any) -> Node:
    """Make one node without a graph.

    Args:
        use: Name of a node type.
        axes: Sizes of its input axes, such as ``{"D": 512}``; without them the first call tells.
        **settings: Its settings.

    Raises:
        ValueError: The type or a setting is unknown, or a value is out of bounds.
    """
    try:
        module = registry.find(use).module
    except registry.UnknownNodeTypeError:
        hint = did_you_mean(use, registry.names(), show="node types")
        raise ValueError(f"no node type '{use}': {hint}") from None
    node: Node = module(axes=axes, **settings)
    return node


# -- what happens when a class is defined ---------------------------------------------------------


def _define(cls: type[Node], use: str) -> None:
    inputs, outputs = _ports(cls, In), _ports(cls, Out)
    _check_config(cls)
    _check_ports(cls, inputs, outputs)
    _check_views(cls, inputs, outputs)
    _check_gathers(cls, inputs)
    reads = [name for name, port in inputs.items() if port.at == "read"]
    _check_signature(cls, "forward", reads)
    _check_signature(cls, "evaluate", reads)
    written = [name for name, port in inputs.items() if port.at == "write"]
    if written or "write" in cls.__dict__:
        _check_signature(cls, "write", written)
    if (cls.writes != "") != hasattr(cls, "write") or cls.writes not in ("", *MOMENTS):
        raise TypeError(f"{cls.__name__}: a node that writes has `write` and one of writes = {MOMENTS}")
    if written and cls.writes != "batch":
        raise TypeError(
            f"{cls.__name__}: `write` of writes = '{cls.writes}' takes no input, since the batch is over "
            "by then; keep what it needs with writes = 'batch'"
        )
    cls._read_axes = tuple((name, _rank(inputs[name])) for name in reads)
    cls._open = all(rank == ANY for _, rank in cls._read_axes)
    cls._lifts = any(rank == ANY or not inputs[name].has_views for name, rank in cls._read_axes)
    if len(outputs) > 1:
        cls.Outputs = namedtuple(f"{cls.__name__}Outputs", outputs)  # type: ignore[misc]  # noqa: PYI024
    cls.declaration = Declaration(
        use=use,
        summary=(inspect.getdoc(cls) or "").split("\n")[0],
        inputs=inputs,
        outputs=outputs,
        config=cls.Config,
        sample=cls.sample,
        family=cls.__module__,
        module=cls,
        writes=cls.writes,
        draws=cls.draws,
        stops_gradient=cls.stops_gradient,
        is_loss=cls.is_loss,
        identities=cls.identities,
        review=cls.review,
        largest_crop=cls.largest_crop,
    )
    _wrap_forward(cls)
    if written and cls.gathers:
        _wrap_write(cls, written)
    registry.add(cls.declaration)


def _rank(port: In) -> int:
    """Number of axes without views; `ANY` where leading axes are open."""
    return ANY if port.axes[:1] == ("...",) else len(port.axes)


def _has_view_axis(value: Tensor, rank: int) -> bool:
    """Whether a value carries views: one axis more than declared; of open axes, more than B and D."""
    return value.dim() > 2 if rank == ANY else value.dim() == rank + 1


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


def _check_ports(cls: type[Node], inputs: Mapping[str, In], outputs: Mapping[str, Out]) -> None:
    if not outputs:
        raise TypeError(f"{cls.__name__} declares no output: add a class attribute `y = Out(...)`")
    if sum(port.main for port in outputs.values()) > 1:
        raise TypeError(f"{cls.__name__} declares two main outputs")
    variables = {port.kind.variable for port in inputs.values()} - {""}
    for name, port in {**inputs, **outputs}.items():
        if hasattr(Node, name) or name in RESERVED_PORTS:
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
    """A node is lifted as a whole: either every port spells the view axis or none that has a batch."""
    lifted = [name for name, port in inputs.items() if not port.has_views]
    if not lifted:
        return
    for name, port in {**inputs, **outputs}.items():
        alone = isinstance(port, In) and "B" not in port.axes
        if port.has_views and port.axes[:1] != ("...",) and not alone:
            raise TypeError(
                f"{cls.__name__}.{name}: '{' '.join(port.axes)}' does not fit beside "
                f"'{' '.join(inputs[lifted[0]].axes)}' of {lifted[0]}, which is taken one view at a "
                "time; begin either all axes with B or all with V B"
            )
    written = next((name for name in lifted if inputs[name].at == "write"), None)
    if written:
        raise TypeError(f"{cls.__name__}.{written}: what is written comes with all views; begin with V")


def _check_gathers(cls: type[Node], inputs: Mapping[str, In]) -> None:
    for name, mode in cls.gathers.items():
        if name not in inputs or mode not in GATHERS or "B" not in inputs[name].axes:
            raise TypeError(
                f"{cls.__name__}.gathers: '{name}': '{mode}' is not an input with an axis B and one of "
                f"{', '.join(GATHERS)}"
            )


def _check_config(cls: type[Node]) -> None:
    if not issubclass(cls.Config, Node.Config):
        raise TypeError(f"{cls.__name__}.Config: write `class Config(Node.Config)`")
    for name, info in cls.Config.model_fields.items():
        if name in RESERVED_SETTINGS:
            raise TypeError(f"{cls.__name__}.Config.{name}: the language uses this word itself")
        if _is_number(info.annotation) and hasattr(nn.Module, name):
            raise TypeError(f"{cls.__name__}.Config.{name}: torch modules use this name; take another")


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


def _wrap_forward(cls: type[Node]) -> None:
    """Put lifting, evaluation and gathering round `forward`; nothing where the class needs none."""
    forward = inspect.unwrap(cls.forward)
    evaluate = getattr(cls, "evaluate", None)
    names = [name for name, _ in cls._read_axes]
    order = [name for name in inspect.signature(forward).parameters if name != "self"]
    if not (cls._lifts or evaluate or cls.gathers or order != names):
        return

    def in_order(call: Callable[..., Any]) -> Callable[..., Any]:
        if order == names:
            return call
        return lambda self, *values: call(self, **dict(zip(names, values, strict=True)))

    train_call = in_order(forward)
    eval_call = in_order(evaluate) if evaluate else train_call

    @functools.wraps(forward)
    def wrapped(self: Node, *args: Tensor | None, **given: Tensor | None) -> Any:
        values = args
        if len(args) != len(names) or given:
            values = _arranged(self, args, given, names)
        if self.training and self.gathers and world_size() > 1:
            values = self._gathered(names, values)
        call = train_call if self.training else eval_call
        if self._lifts:
            return self._call_lifted(call, values)
        return call(self, *values)

    cls.forward = wrapped


def _wrap_write(cls: type[Node], names: list[str]) -> None:
    """Let `write` see the batch of all processes where the class asks for it."""
    write: Any = inspect.unwrap(cls.write)  # type: ignore[attr-defined]

    @functools.wraps(write)
    def wrapped(self: Node, **given: Tensor | None) -> None:
        values = tuple(given.get(name) for name in names)
        if world_size() > 1:
            values = self._gathered(names, values)
        write(self, **dict(zip(names, values, strict=True)))

    cls.write = wrapped  # type: ignore[attr-defined]


def _arranged(
    node: Node, args: tuple[Any, ...], given: Mapping[str, Any], names: list[str]
) -> tuple[Any, ...]:
    values = dict(zip(names, args, strict=False), **given)
    unknown = [name for name in given if name not in names]
    missing = [
        name
        for name, port in node.declaration.reads.items()
        if name not in values and not port.optional
    ]
    if unknown or missing or len(args) > len(names):
        takes = ", ".join(f"{name}: {node.declaration.inputs[name]}" for name in names)
        wrong = f"unknown {unknown}" if unknown else f"missing {missing}" if missing else "too many inputs"
        raise TypeError(f"{node.declaration.use} takes {takes}: {wrong}")
    return tuple(values.get(name) for name in names)


@functools.cache
def _asked_axes(cls: type[Node]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(cls.build).parameters if name != "self")


def _build_at_first_call(
    node: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
) -> None:
    assert isinstance(node, Node)
    if not node.built:
        names = list(node.declaration.reads)
        values = {k: v for k, v in {**dict(zip(names, args, strict=False)), **given}.items()}
        tensors = {k: v for k, v in values.items() if k in names and isinstance(v, Tensor)}
        node.build_with(node.bound_axes(tensors))
        node.to(next(iter(tensors.values())).device)
    node._first_call.remove()


def _is_number(annotation: Any) -> bool:
    parts = get_args(annotation)
    return Schedule in parts or any(_is_number(part) for part in parts)


def _configured(cls: type[Node], settings: Mapping[str, Any]) -> Any:
    try:
        return cls.Config.model_validate(dict(settings))
    except ValidationError as failure:
        use = cls.declaration.use
        lines = []
        for wrong in failure.errors():
            # pydantic names the alternatives of a number in words, such as `a schedule`
            place = ".".join(str(part) for part in wrong["loc"] if " " not in str(part))
            if wrong["type"] == "extra_forbidden":
                hint = did_you_mean(place, cls.Config.model_fields, show="settings")
                lines.append(f"{use} has no setting '{place}': {hint}")
            elif wrong["type"] == "sslgraph":
                context = wrong["ctx"]
                facts = [wrong["msg"], context["expected"], context["help"]]
                lines.append(f"{use}.{place}: {': '.join(fact for fact in facts if fact)}")
            else:
                lines.append(f"{use}.{place}: {wrong['msg']}, got {wrong['input']!r}")
        raise ValueError("; ".join(lines)) from None
