"""Node types that exist in these tests only, so that nothing in a picture can hang on a name."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

import sslgraph
from sslgraph import registry
from sslgraph.plan import Plan, make_plan
from sslgraph.ports import Declaration, Identities, In, Out, Port
from sslgraph.schedules import Number


class Settings(BaseModel):
    model_config = {"extra": "forbid", "frozen": True}

    width: int = 8
    momentum: Number = 0.9
    note: str = ""
    mode: str = "a"
    depth: int = 1
    parts: dict[str, Any] = {}
    of: tuple[str, ...] = ()


P = TypeVar("P", bound=Port)


def _named(ports: dict[str, P]) -> dict[str, P]:
    for name, port in ports.items():
        port.name = name
    return ports


class Root:
    """Stands for the base class of nodes."""

    def build(self) -> None:
        raise NotImplementedError


def declare(
    use: str, inputs: dict[str, In], outputs: dict[str, Out], *, builds: bool = False, **flags: Any
) -> None:
    """Register a node type that can be drawn, though never run."""

    def identities(
        name: str, config: Any, arriving: Mapping[str, Identities]
    ) -> Mapping[str, Identities]:
        views = (f"{name}.0", f"{name}.1") if flags.get("draws") else ()
        return dict.fromkeys(outputs, views or max(arriving.values(), key=len, default=()))

    registry.add(
        Declaration(
            use=use,
            summary=f"What {use} does.",
            inputs=_named(inputs),
            outputs=_named(outputs),
            config=Settings,
            sample={},
            family=__name__,
            module=type(
                use, (Root,), {"__module__": __name__, **({"build": print} if builds else {})}
            ),
            identities=identities,
            **flags,
        )
    )


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    _declare_toys()
    yield
    for use in [use for use, known in registry._declared.items() if known.family == __name__]:
        del registry._declared[use]


def _declare_toys() -> None:
    image, vector = "V B C H W", "V B D"
    position = In("index", "1 B", default="batch.index")
    declare("crops", {"x": In("image", "1 B C H W"), "position": position},
            {"wide": Out("image", image), "narrow": Out("image", image)}, draws=True)  # fmt: skip
    declare("net", {"x": In("image", image)},
            {"vector": Out("embedding", vector), "tokens": Out("tokens", "V B N D")},
            builds=True)  # fmt: skip
    declare("head", {"x": In("embedding", vector)}, {"y": Out("embedding", vector)}, builds=True)
    declare("keep", {"x": In("embedding", vector)}, {"y": Out("embedding", vector)})
    declare("scores", {"x": In("embedding", vector)}, {"y": Out("logits", "V B K")})
    declare("copied", {"x": In("image", image)}, {"y": Out("embedding", vector)},
            writes="step", stops_gradient=True)  # fmt: skip
    declare("again", {"x": In("image", image)}, {"y": Out("embedding", vector)})
    declare("cut", {"x": In("embedding", vector)}, {"y": Out("embedding", vector)},
            stops_gradient=True)  # fmt: skip
    declare("store", {"x": In("embedding", vector, at="write")},
            {"items": Out("embedding", "V size D")}, writes="batch")  # fmt: skip
    declare("compare", {"guess": In("embedding", vector), "goal": In("embedding", vector)},
            {"loss": Out("loss", "")}, is_loss=True)  # fmt: skip
    declare("spread", {"x": In("embedding", vector)}, {"loss": Out("loss", "")}, is_loss=True)


Planner = Callable[..., Plan]

GRAPH: dict[str, Any] = {
    "sslgraph": 1,
    "name": "toy",
    "title": "A toy",
    "summary": "Every mark of a picture once.",
    "nodes": {
        "views": {"use": "crops", "in": "batch.image"},
        "body": {"use": "net", "in": "views.wide", "width": 16},
        "top": {"use": "head", "in": "body.vector"},
        "slow": {
            "use": "copied",
            "of": ["body", "top"],
            "in": "views.wide",
            "momentum": {"cosine": [0.996, 1.0]},
        },
        "past": {"use": "store", "in": "slow"},
        "fixed": {"use": "cut", "in": "top"},
        "near": {"use": "compare", "in": {"guess": "top.0", "goal": "slow.1"}},
        "far": {"use": "compare", "in": {"guess": "top", "goal": "past"}},
        "same": {"use": "compare", "in": {"guess": "top", "goal": "fixed"}},
    },
    "minimize": {"near": 1.0, "far": 0.5, "same": {"linear": [0, 2]}},
    "outputs": {"embedding": "body.vector", "tokens": "body.tokens"},
}


@pytest.fixture
def plan_of() -> Planner:
    def plan(**changes: Any) -> Plan:
        return make_plan(sslgraph.load({**GRAPH, **changes}))

    return plan


@pytest.fixture
def plan(plan_of: Planner) -> Plan:
    return plan_of()


def changed(name: str, **keys: Any) -> dict[str, Any]:
    """A node of the toy graph with other keys."""
    return {name: {**GRAPH["nodes"][name], **keys}}
