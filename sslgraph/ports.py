"""Ports: what a node type takes and gives. Kinds, axes, and the declaration of a node type.

A port is a kind (what the numbers mean) and named axes (how they are laid out). In an axis string
an UPPER case name is free and bound by the wire, a lower case name is the value of a setting, a
number is itself and ``...`` stands for any axes, in front (``... D``) or behind the batch
(``V B ... D``, ``V B N ...``). Axis names are local to a node. This module imports no torch, so
checks can read a declaration without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel

KINDS = (
    "image",
    "tokens",
    "embedding",
    "logits",
    "probs",
    "weight",
    "mask",
    "index",
    "label",
    "text",
    "loss",
)

BATCH: Mapping[str, tuple[str, str]] = {
    "image": ("image", "B C H W"),
    "label": ("label", "B"),
    "text": ("text", "B L"),
    "index": ("index", "B"),
    "sample": ("index", "B"),
}
"""What the data gives, by the name after ``batch.``: kind and axes. On a wire each has V = 1.

``index`` is the position of a sample in the run, which keys its draws: no two are equal. ``sample``
is the number of the image in its data set, equal whenever the image comes by.
"""

_AXIS = re.compile(r"\.\.\.|[A-Z][A-Z0-9]*'?|[a-z][a-z0-9_]*|[0-9]+")
_VARIABLE = re.compile(r"([A-Z])(?:=(.+))?")

Moment = Literal["read", "write", "both"]
Variadic = Literal["no", "alike", "apart"]


def parse_axes(text: str) -> tuple[str, ...]:
    """Split an axis string.

    Args:
        text: Axes between spaces, such as ``V B C H W`` or ``... out``.

    Raises:
        ValueError: An axis is not a name, a number or a leading ``...``.
    """
    axes = tuple(text.split())
    for axis in axes:
        if not _AXIS.fullmatch(axis) or (axis == "..." and not _may_be_open(axes)):
            raise ValueError(
                f"'{axis}' in '{text}' is no axis: use names, numbers or a leading ..., or one "
                "behind V B"
            )
    return axes


def _may_be_open(axes: tuple[str, ...]) -> bool:
    """Whether it is clear which axes `...` stands for, and which one is the view axis."""
    return axes.count("...") == 1 and axes.index("...") != 1 and axes[0] != "B"


@dataclass(frozen=True)
class Kind:
    """What a port accepts or gives: some kinds, and a variable if it passes through.

    Args:
        allowed: The kinds that fit here.
        variable: One capital letter; ports of a node with the same letter have the same kind.
    """

    allowed: tuple[str, ...]
    variable: str = ""

    def __str__(self) -> str:
        return "any kind" if set(self.allowed) == set(KINDS) else " or ".join(self.allowed)

    @classmethod
    def parse(cls, text: str) -> Kind:
        """Read ``embedding``, ``embedding/tokens``, ``T`` or ``T=embedding/tokens``."""
        match = _VARIABLE.fullmatch(text)
        names = (match[2] if match else text) or "/".join(KINDS)
        allowed = tuple(names.split("/"))
        for name in allowed:
            if name not in KINDS:
                raise ValueError(f"'{name}' is no kind; the kinds are {', '.join(KINDS)}")
        return cls(allowed, match[1] if match else "")


class Port:
    """A declared input or output of a node type; its name is the class attribute it stands in."""

    def __init__(self, kind: str, axes: str) -> None:
        self.kind = Kind.parse(kind)
        self.axes = parse_axes(axes)
        self.name = ""

    @property
    def has_views(self) -> bool:
        """Whether the declaration spells the view axis; without it the base class lifts the node.

        Axes that begin with the batch are one view. Anything else says itself what leads.
        """
        return self.axes[:1] != ("B",)

    def on_the_wire(self) -> tuple[str, ...]:
        """The axes as a wire carries them: the view axis first."""
        return self.axes if self.has_views else ("V", *self.axes)

    def __str__(self) -> str:
        return f"{self.kind}[{' '.join(self.on_the_wire())}]"


class In(Port):
    """An input.

    Args:
        kind: Accepted kinds (see `Kind.parse`).
        axes: Axis string.
        optional: May stay unplugged; `forward` then gets None.
        default: Reference that is plugged where the graph gives none, such as ``batch.index``;
            several, between spaces, are joined like a list.
        at: ``read`` reaches `forward`; ``write`` reaches `write` after every read of the batch;
            ``both`` reaches one and then the other.
        variadic: Takes a list of any length as it is, in place of joining its views; `forward` gets
            a value for each reference. Their axes are ``alike``, or but for V and B ``apart``.
    """

    def __init__(
        self,
        kind: str,
        axes: str,
        *,
        optional: bool = False,
        default: str = "",
        at: Moment = "read",
        variadic: Variadic = "no",
    ) -> None:
        super().__init__(kind, axes)
        self.optional = optional
        self.default = default
        self.at = at
        self.variadic = variadic

    @property
    def is_read(self) -> bool:
        """Whether it reaches `forward`."""
        return self.at != "write"

    @property
    def is_written(self) -> bool:
        """Whether it reaches `write`."""
        return self.at != "read"

    @property
    def required(self) -> bool:
        """Whether the graph has to plug it."""
        return not (self.optional or self.default)


class Out(Port):
    """An output.

    Args:
        kind: One kind, or the variable of an input whose kind passes through.
        axes: Axis string.
        main: Whether a bare reference to the node means this output.
    """

    def __init__(self, kind: str, axes: str, *, main: bool = False) -> None:
        super().__init__(kind, axes)
        self.main = main


Identities = tuple[str, ...]
"""The view axis of a port: for each view the name of the crop that it came from."""


@dataclass(frozen=True)
class Ports:
    """The ports of one node, where its type leaves them to the node's settings.

    Args:
        inputs: Inputs by name, in order.
        outputs: Outputs by name, in order.
        aliases: Further names that references may use -> the port that they mean.
        learns: Whether it has weights with these settings; as its type says if absent.
    """

    inputs: Mapping[str, In]
    outputs: Mapping[str, Out]
    aliases: Mapping[str, str] = field(default_factory=dict)
    learns: bool | None = None


@dataclass(frozen=True)
class Member:
    """A node that another one repeats, as `of:` names it.

    Args:
        path: What `of` says: a node, or a member of one such as ``teacher.encoder``.
        declaration: Its type.
        config: Its settings, with those that the repetition replaces.
        links: Inputs that the member before it feeds -> the output of that member.
        kept: Other required inputs -> the references that they keep unless the graph gives some.
        replaced: Names of the settings that the repetition replaces.
    """

    path: str
    declaration: Declaration
    config: Any
    links: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """The node of the graph that it is or belongs to."""
        return self.path.partition(".")[0]

    @property
    def name(self) -> str:
        """Its name within the repetition: the last part of its path."""
        return self.path.rpartition(".")[2]


Pairs = tuple[tuple[int, int], ...]
"""The views that a loss compares: one of its first input and one of its second."""


@dataclass(frozen=True)
class Visible:
    """How many places the masks of a port leave visible.

    They are *even* where every image of a batch has as many, whether or not another batch has
    another number, and else *ragged*.

    Args:
        fewest: In any image.
        most: In any image.
        remedy: Of ragged masks, the setting that would make them even, such as ``count: exact``.
    """

    fewest: int
    most: int
    remedy: str = ""

    @property
    def even(self) -> bool:
        """Whether every image of a batch has as many."""
        return not self.remedy

    @property
    def known(self) -> int | None:
        """The number, where it is the same in every image of a run."""
        return self.fewest if self.even and self.fewest == self.most else None

    def complement(self, places: int) -> Visible:
        """That of masks which hide what these leave visible, on a grid of so many places."""
        return replace(self, fewest=places - self.most, most=places - self.fewest)


@dataclass(frozen=True)
class Declaration:
    """What checks, plans and pictures know of a node type, without its module.

    Args:
        use: The name in YAML.
        summary: First line of the type's docstring.
        inputs: Declared inputs by name, in order.
        outputs: Declared outputs by name, in order.
        config: The pydantic model of its settings.
        sample: Settings and axis sizes for `describe` and the contract test.
        family: Module that defines it.
        module: The class itself, opaque below the node layer.
        writes: When it writes its state (``batch``, ``step``, ``epoch``), or empty.
        commits: When it puts what it wrote each batch to use (``step``, ``epoch``), or empty.
        draws: Whether its output depends on keyed random draws.
        stops_gradient: Whether no gradient passes from its outputs to its inputs.
        is_loss: Whether its output can be minimised.
        derives: Whether its ports depend on its settings or members; `of_node` then gives them.
        repeats: Whether it repeats other nodes, which `of:` names.
        replaces: Whether it may replace settings of the nodes that it repeats.
        learns: Whether it has weights of its own that can be trained.
        attracts: Two inputs that a loss draws together, or nothing.
        prevents: What it does against collapse, such as ``negatives``; a word of `collapse`.
        guards: ``(config) -> the same with these settings``; '' where they switch it off.
        members: The nodes that it repeats.
        aliases: Further names of its ports.
        ports: ``(config, members) -> ports of the node``.
        identities: ``(name, config, identities of each input) -> identities of each output``.
        review: ``(config, identities of each input) -> text of what does not fit, or ''``.
        pairs: ``(config, identities of each input) -> the pairs of views that a loss compares``.
        mask_counts: ``(config, places) -> how many places each of its masks leaves visible``.
        even: ``(config) -> inputs whose masks must hide as many places in every image``.
        largest_crop: ``(config) -> pixels of the largest view it makes, or None``.
    """

    use: str
    summary: str
    inputs: Mapping[str, In]
    outputs: Mapping[str, Out]
    config: type[BaseModel]
    sample: Mapping[str, Any]
    family: str
    module: type
    writes: str = ""
    commits: str = ""
    draws: bool = False
    stops_gradient: bool = False
    is_loss: bool = False
    derives: bool = False
    repeats: bool = False
    replaces: bool = False
    learns: bool = False
    attracts: tuple[str, str] | tuple[()] = ()
    prevents: str = ""
    guards: Callable[[Any], str] = field(default=lambda config: "")
    members: tuple[Member, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    ports: Callable[[Any, tuple[Member, ...]], Ports] | None = None
    identities: Callable[[str, Any, Mapping[str, Identities]], Mapping[str, Identities]] = field(
        default=lambda name, config, inputs: {}
    )
    review: Callable[[Any, Mapping[str, Identities]], str] = field(
        default=lambda config, inputs: ""
    )
    pairs: Callable[[Any, Mapping[str, Identities]], Pairs] = field(
        default=lambda config, inputs: ()
    )
    mask_counts: Callable[[Any, int], Mapping[str, Visible]] = field(
        default=lambda config, places: {}
    )
    even: Callable[[Any], Mapping[str, str]] = field(default=lambda config: {})
    largest_crop: Callable[[Any], int | None] = field(default=lambda config: None)

    def of_node(self, config: Any, members: tuple[Member, ...] = ()) -> Declaration:
        """The declaration of one node, with the ports that its settings and members give it."""
        if not self.derives or self.ports is None:
            return self
        made = self.ports(config, members)
        return replace(
            self,
            inputs=made.inputs,
            outputs=made.outputs,
            aliases=made.aliases,
            members=members,
            learns=self.learns if made.learns is None else made.learns,
        )

    @property
    def main(self) -> str:
        """Name of the main output, or '' where a reference has to spell the port."""
        if len(self.outputs) == 1:
            return next(iter(self.outputs))
        return next((name for name, port in self.outputs.items() if port.main), "")

    def port(self, name: str) -> str:
        """The port that a name in a reference means; the name itself where it is no alias."""
        return self.aliases.get(name, name)

    @property
    def reads(self) -> dict[str, In]:
        """The inputs that reach `forward`."""
        return {name: port for name, port in self.inputs.items() if port.is_read}

    @property
    def written(self) -> dict[str, In]:
        """The inputs that reach `write`."""
        return {name: port for name, port in self.inputs.items() if port.is_written}

    @property
    def required(self) -> list[str]:
        """Names of the inputs that the graph has to plug."""
        return [name for name, port in self.inputs.items() if port.required]
