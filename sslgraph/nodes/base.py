"""The base class of every node type: ports, settings, build, and how a call meets the view axis.

A node type is a class with ports as class attributes, a frozen pydantic `Config`, `build` for its
parameters and `forward` for its computation. What does not hold together is an error when the class
is defined, so a wrong node can't be imported and never be wired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from sslgraph import registry
from sslgraph.axes import bind_axes
from sslgraph.errors import did_you_mean
from sslgraph.hashing import text_key
from sslgraph.nodes.batch_norm import replace_batch_norms, statistics_apart
from sslgraph.nodes.configured import configured
from sslgraph.nodes.declare import asked_axes, declare, is_number
from sslgraph.nodes.numbers import Numbers
from sslgraph.nodes.shuffle import COUNTER, Sharing
from sslgraph.ports import Declaration, Identities, Member, Pairs, Ports, Visible
from sslgraph.schedules import Learned, Schedule
from sslgraph.train_spec import BatchNormSpec


class SettingError(ValueError):
    """A setting that is valid alone but not with what the wires bring.

    Args:
        text: What is wrong.
        path: Place inside the node's settings, such as ``("ops", 2)``.
        expected: What would be right.
        got: What was found.
        help: What to do.
        more: Further settings that are wrong for the same reason.
    """

    def __init__(
        self,
        text: str,
        *,
        path: tuple[str | int, ...] = (),
        expected: str = "",
        got: str = "",
        help: str = "",
        more: tuple[SettingError, ...] = (),
    ) -> None:
        super().__init__(text)
        self.path, self.expected, self.got, self.help = path, expected, got, help
        self.more = more


@dataclass(frozen=True)
class Context:
    """What a graph tells each of its nodes.

    Args:
        name: The node's name in the graph; draws and initial weights are keyed by it.
        seed: The run's seed.
        batch_norm: The run's rule for batch statistics, where the node sets none.
        views: For each plugged input the crops that its views came from; without a graph, view i
            of every input came from crop i.
        samples: Samples of one forward pass over all processes; 0 where that is not known.
        kept: For each mask how many places it leaves visible, where that is known.
    """

    name: str = "node"
    seed: int = 0
    batch_norm: BatchNormSpec = field(default_factory=BatchNormSpec)
    views: Mapping[str, Identities] = field(default_factory=dict)
    samples: int = 0
    kept: Mapping[str, Visible] = field(default_factory=dict)

    def key(self) -> int:
        """A 63-bit key of this node in this run."""
        return text_key(f"{self.seed}/{self.name}") & (2**63 - 1)


class Node(Numbers):
    """Base class of node types.

    Subclass with ``class MyNode(Node, use="my_node")``. Ports are class attributes (`In`, `Out`);
    `forward` takes exactly the inputs that are read, in any order of names, and returns the output,
    or ``self.Outputs(...)`` where there are several. Ports declared without a view axis (``B D``)
    are lifted: views are folded into the batch, or taken one at a time where batch statistics are
    per view.

    A number that may change over a run (a setting that accepts a `Schedule`) is a 0-d float32
    buffer under the setting's name; the clock fills it in place.
    """

    class Config(BaseModel):
        """Settings of the node; unknown ones are refused."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    declaration: ClassVar[Declaration]
    Outputs: ClassVar[Callable[..., Any]]
    sample: ClassVar[Mapping[str, Any]] = {}
    sample_axes: ClassVar[Mapping[str, int]] = {}
    writes: ClassVar[str] = ""
    commits: ClassVar[str] = ""
    gathers: ClassVar[Mapping[str, str]] = {}
    draws: ClassVar[bool] = False
    stops_gradient: ClassVar[bool] = False
    is_loss: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    learns: ClassVar[bool | None] = None
    attracts: ClassVar[tuple[str, str] | tuple[()]] = ()
    prevents: ClassVar[str] = ""

    _lifts: ClassVar[bool] = False
    _open: ClassVar[bool] = False
    _read_axes: ClassVar[tuple[tuple[str, int], ...]] = ()

    def __init_subclass__(cls, use: str = "", **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if use:
            declare(cls, use, Node)

    def __init__(
        self,
        *,
        axes: Mapping[str, int] | None = None,
        context: Context | None = None,
        config: Config | None = None,
        declaration: Declaration | None = None,
        **settings: Any,
    ) -> None:
        """Make the node.

        Args:
            axes: Sizes of the input axes that `build` asks for; without them the first call tells.
            context: The node's place in a graph.
            config: Settings that were validated already.
            declaration: Its declaration in a graph, where its ports depend on settings or members.
            **settings: The settings of `Config`, where `config` is not given.

        Raises:
            ValueError: A setting is unknown, missing or out of bounds.
        """
        super().__init__()
        self.config: Any = config or configured(type(self).declaration, settings)
        self.context = context or Context()
        if type(self).declaration.derives:
            own = declaration or type(self).declaration.of_node(self.config)
            self.declaration = own  # type: ignore[misc]  # of this node, not of its class
            if tuple(own.outputs) != tuple(type(self).declaration.outputs):
                # A group of crops may have any name, so its outputs are no named tuple.
                self.Outputs = _plain  # type: ignore[misc,method-assign]
        self.axes: dict[str, int] = {}
        self.schedules: dict[str, Schedule] = {}
        self.limits: dict[str, tuple[float | None, float | None]] = {}
        self._apart = False
        self._sharing: Sharing | None = None
        self._register_numbers()
        self.built = False
        if axes is not None or not asked_axes(type(self)):
            self.build_with(axes or {})
        else:
            self._first_call = self.register_forward_pre_hook(
                _build_at_first_call, with_kwargs=True
            )

    # -- to override ------------------------------------------------------------------------------

    def build(self, *args: Any, **axes: Any) -> None:
        """Make parameters and buffers; the parameters of an override name the axes it needs."""

    @classmethod
    def identities(
        cls, name: str, config: Any, inputs: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        """For each output the crops that its views came from.

        Outputs keep the identities of the input with most views; an output whose first axis is a
        setting or a number makes that many new ones, and one of a node without views has the node's
        name.
        """
        longest = max(inputs.values(), key=len, default=()) or (name,)
        made = {}
        for output, port in cls.declaration.of_node(config).outputs.items():
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
    def ports(cls, config: Any, members: tuple[Member, ...]) -> Ports:
        """The ports of one node, for types whose ports depend on settings or on `of:`.

        The other types declare theirs as class attributes and leave this alone. A type that
        overrides it may still declare some: they are in ``cls.declaration``.
        """
        return Ports(cls.declaration.inputs, cls.declaration.outputs)

    @classmethod
    def pairs(cls, config: Any, inputs: Mapping[str, Identities]) -> Pairs:
        """The pairs of views that a loss compares, one of its first and one of its second input."""
        return ()

    @classmethod
    def guards(cls, config: Any) -> str:
        """What it does against collapse with these settings; '' where they switch that off."""
        return cls.prevents

    @classmethod
    def mask_counts(cls, config: Any, places: int) -> Mapping[str, Visible]:
        """How many places each of its masks leaves visible, on a grid of so many."""
        return {}

    @classmethod
    def even(cls, config: Any) -> Mapping[str, str]:
        """Inputs that take even masks only -> the setting that would do with any mask, or ''."""
        return {}

    def fits(self, axes: Mapping[str, int]) -> None:
        """See that inputs of these sizes fit what was built, which may be called in many places.

        Raises:
            SettingError: They don't.
        """

    def check_data(self, images: int) -> None:
        """See that the node suits a data set, at the start of a run.

        Args:
            images: Number of images in the data set.

        Raises:
            SettingError: It does not.
        """

    def timed(self) -> Mapping[str, Node]:
        """The nodes whose numbers the clock fills, by their names within this one."""
        return {"": self}

    def part(self, output: str) -> Node:
        """The node that computes an output: itself, or a member where it repeats others."""
        return self

    @classmethod
    def largest_crop(cls, config: Any) -> int | None:
        """Pixels of the side of the largest view that this node makes; None if it makes none."""
        return None

    def sizes(self, *shapes: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...] | None:
        """Shapes of the outputs for those of the inputs, where a meta run can't tell."""
        return None

    # -- machinery --------------------------------------------------------------------------------

    def build_with(self, axes: Mapping[str, int]) -> None:
        """Make the parameters for these sizes, from a generator keyed by seed and name."""
        asked = asked_axes(type(self))
        missing = [axis for axis in asked if axis not in axes]
        if missing:
            raise ValueError(f"{self.declaration.use} needs the size of {', '.join(missing)}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.context.key())
            self.build(**{axis: axes[axis] for axis in asked})
        self.axes = {axis: axes[axis] for axis in asked}
        ports = {**self.declaration.inputs, **self.declaration.outputs}
        for name in ports.keys() & {*self._modules, *self._parameters, *self._buffers}:
            raise TypeError(
                f"{type(self).__name__}.build sets self.{name}, but a port has that name"
            )
        rule = getattr(self.config, "batch_norm", None) or self.context.batch_norm
        if replace_batch_norms(self, rule):
            self._share(rule)
        self._apart = statistics_apart(self)
        self.built = True

    def _share(self, rule: BatchNormSpec) -> None:
        """Have samples put in order where batch norm looks at parts of them."""
        if rule.groups == 1 and rule.ranks != "shuffled":
            return
        if self.gathers or not self._lifts:
            raise SettingError(
                f"{self.declaration.use} takes all views at once, so its samples can't be put "
                "into groups",
                path=("batch_norm",),
                expected="'all' or 'own', without groups",
            )
        samples = self.context.samples
        if samples % rule.groups:
            raise SettingError(
                f"{samples} samples can't be cut into {rule.groups} groups of one size",
                path=("batch_norm", "groups"),
                expected=f"a multiple of {rule.groups} samples in each process a forward pass",
                got=f"{samples} over all processes",
                help="change train.batch_size, train.accumulate or 'groups'",
            )
        self._sharing = Sharing(rule, self.context.key())
        if rule.ranks == "shuffled":
            self.register_buffer(COUNTER, torch.zeros((), dtype=torch.int64))

    def rename(self, name: str) -> None:
        """Take another place in the graph: batches are shuffled by name, unlike an original's."""
        self.context = replace(self.context, name=name)
        if self._sharing is not None:
            self._sharing = replace(self._sharing, key=self.context.key())

    def _register_numbers(self) -> None:
        for name, info in type(self.config).model_fields.items():
            if not is_number(info.annotation):
                continue
            value = getattr(self.config, name)
            if isinstance(value, Learned):
                self.register_parameter(name, nn.Parameter(torch.tensor(float(value.learned))))
                self.limits[name] = (value.min, value.max)
                continue
            if isinstance(value, Schedule):
                self.schedules[name] = value
                value = value.value(0, 1, 1)
            self.register_number(name, None if value is None else float(value))

    @torch.no_grad()
    def constrain(self) -> None:
        """Put parameters back into their bounds, such as learned numbers into their limits.

        Called after each optimizer step.
        """
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

    def extra_repr(self) -> str:
        """The settings, for `print(method)`."""
        return ", ".join(
            f"{k}={v!r}" for k, v in self.config.model_dump(exclude_defaults=True).items()
        )


def _plain(*outputs: Any) -> tuple[Any, ...]:
    """Several outputs of a node whose ports have names that are no attributes."""
    return outputs


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


def _build_at_first_call(node: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    assert isinstance(node, Node)
    if not node.built:
        names = list(node.declaration.reads)
        values = {**dict(zip(names, args, strict=False)), **given}
        tensors = {k: v for k, v in values.items() if k in names and isinstance(v, Tensor)}
        node.build_with(node.bound_axes(tensors))
        node.to(next(iter(tensors.values())).device)
    node._first_call.remove()
