"""A node type under test: its modules, inputs made from its declaration, and its results."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from sslgraph import registry
from sslgraph.axes import bind_axes
from sslgraph.lists import unjoined, variadic
from sslgraph.nodes.base import Context, Node
from sslgraph.ports import Declaration, In, Visible

# Unlike each other, so that a swapped axis does not fit by chance.
_SIZES = {"V": 2, "B": 5, "C": 3, "H": 32, "W": 32, "N": 6, "D": 7, "K": 8, "L": 9}
_OTHER_SIZE = 4
_WHOLE = ("label", "index", "text")
_LISTED = 3  # references in a list that is not joined
_TOKENS = 3  # labels and words are below this

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """One node type with the settings and sizes to test it with.

    Args:
        declaration: The type.
        settings: Its settings.
        axes: Sizes of the free axes.
        originals: The nodes that it repeats, as its sample names them under `of`.
    """

    declaration: Declaration
    settings: Mapping[str, Any]
    axes: Mapping[str, int]
    originals: tuple[Node, ...] = ()

    @classmethod
    def of(
        cls,
        use_or_class: str | type[Node],
        *,
        axes: Mapping[str, int] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Subject:
        """The subject for a name or a class; what is not given comes from the class."""
        if isinstance(use_or_class, str):
            declaration = registry.find(use_or_class)
        else:
            declaration = use_or_class.declaration
        module: type[Node] = declaration.module
        chosen = dict(module.sample if settings is None else settings)
        originals = tuple(_original(of) for of in chosen.pop("of", ()))
        if originals:
            declaration = module(of=originals, **chosen).declaration
        sizes = {**_SIZES, **module.sample_axes, **(axes or {})}
        subject = cls(declaration, chosen, sizes, originals)
        own = declaration.of_node(subject.config, declaration.members)
        own = unjoined(own, _LISTED) if variadic(own) else own
        return replace(subject, declaration=own)

    @property
    def use(self) -> str:
        """The name of the type."""
        return self.declaration.use

    @property
    def config(self) -> Any:
        """The settings, validated."""
        return self.declaration.config.model_validate(dict(self.settings))

    @property
    def takes_views(self) -> bool:
        """Whether some input may carry any number of views."""
        leading = {port.on_the_wire()[:1] for port in self.declaration.inputs.values()}
        return bool(leading & {("V",), ("...",)})

    def fail(self, property: str, found: object, expected: object) -> NoReturn:
        """Report a broken property."""
        raise AssertionError(f"{self.use}: {property}\n  found:    {found}\n  expected: {expected}")

    def node(self, *, views: int = 2, seed: int = 0, device: str = "cpu") -> Node:
        """A module in training mode, built for the sizes; equal seeds give equal modules."""
        bound: dict[str, tuple[int, str]] = {}
        inputs = self.inputs(views=views)
        for name, value in inputs.items():
            port = self.declaration.inputs[name]
            wrong = bind_axes(port, tuple(value.shape), bound, vars(self.config))
            assert wrong is None, f"{self.use}.{name}: {wrong}"
        kept = {
            name: _visible(value)
            for name, value in inputs.items()
            if self.declaration.inputs[name].kind.allowed == ("mask",)
        }
        context = Context(name="subject", seed=seed, kept=kept)
        originals = tuple(copy.deepcopy(node).to(device) for node in self.originals)
        others = {"of": originals} if originals else {}
        with torch.device(device):
            module: Node = self.declaration.module(
                axes={axis: size for axis, (size, _) in bound.items()},
                context=context,
                **others,
                **self.settings,
            )
        return module.train()

    def inputs(self, *, views: int = 2, seed: int = 0) -> Inputs:
        """A value for every input, those that are written and the optional ones included."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: self._value(port, views, generator)
            for name, port in self.declaration.inputs.items()
        }

    def reads(self, inputs: Inputs) -> Inputs:
        """Those that reach `forward`."""
        return {name: inputs[name] for name in self.declaration.reads}

    def written(self, inputs: Inputs) -> Inputs:
        """Those that reach `write`."""
        return {name: inputs[name] for name in self.declaration.written}

    def run(self, node: Node, inputs: Inputs) -> dict[str, Tensor]:
        """The outputs by name."""
        result: Any = node(*self.reads(inputs).values())
        names = list(self.declaration.outputs)
        parts = (result,) if len(names) == 1 else tuple(result)
        return dict(zip(names, parts, strict=True))

    def suits(self, views: int) -> bool:
        """Whether the type accepts inputs of so many views."""
        identities = {
            name: tuple(f"crop.{view}" for view in range(value.shape[0]))
            for name, value in self.inputs(views=views).items()
        }
        return not self.declaration.review(self.config, identities)

    def _value(self, port: In, views: int, generator: torch.Generator) -> Tensor:
        shape = self._shape(port, views)
        kind = port.kind.allowed[0]
        if port.kind.variable and "embedding" in port.kind.allowed:
            kind = "embedding"
        if kind in _WHOLE:
            return self._whole(kind, shape, generator)
        if kind == "mask":
            return torch.arange(shape[-1]).remainder(2).bool().expand(shape).contiguous()
        if kind in ("image", "weight"):
            return torch.rand(shape, generator=generator)
        value = torch.randn(shape, generator=generator)
        return value.softmax(-1) if kind == "probs" else value

    def _whole(self, kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if kind == "index":  # positions: every sample its own
            return torch.arange(shape[-1]).add(100).expand(shape).contiguous()
        return torch.randint(_TOKENS, shape, generator=generator)

    def _shape(self, port: In, views: int) -> tuple[int, ...]:
        axes = port.on_the_wire()
        if axes[:1] == ("...",):
            axes = ("V", "B", *(axes[1:] or ("D",)))
        axes = tuple("N" if axis == "..." else axis for axis in axes)
        sizes = {**self.axes, "V": views}
        return tuple(self._size(axis, sizes) for axis in axes)

    def _size(self, axis: str, sizes: Mapping[str, int]) -> int:
        if axis.isdigit():
            return int(axis)
        if axis[0].islower():
            return int(getattr(self.config, axis))
        return sizes.get(axis, _OTHER_SIZE)


def _original(settings: Mapping[str, Any]) -> Node:
    """A node to repeat, for the sizes that inputs have here."""
    rest = {key: value for key, value in settings.items() if key != "use"}
    module: type[Node] = registry.find(settings["use"]).module
    return module(axes=_SIZES, context=Context(name=settings["use"]), **rest)


def _visible(mask: Tensor) -> Visible:
    """How many places masks leave visible that are made here, all alike."""
    count = int((~mask).sum(-1).max())
    return Visible(count, count)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two results are equal but for the order of float additions."""
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)


def differentiable(value: Tensor) -> bool:
    """Whether a gradient can flow into or out of a value."""
    return value.is_floating_point()
