"""A node type that does not hold together can't be defined; the texts, word for word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

import sslgraph
from sslgraph import registry
from sslgraph.nodes.base import Node, make_node
from sslgraph.ports import In, Out
from sslgraph.schedules import LearnableNumber, Number


def refused(*wrong: type[Exception], **body: Any) -> str:
    """The text with which defining a class of this body fails."""
    use = body.pop("use", "toy")
    full = {"x": In("embedding", "B D"), "y": Out("embedding", "B D"), "forward": passing, **body}
    with pytest.raises(wrong or TypeError) as caught:
        type("Toy", (Node,), full, use=use)
    return str(caught.value)


def passing(self: Node, x: Tensor) -> Tensor:
    return x


def test_forward_takes_the_inputs() -> None:
    def other(self: Node, z: Tensor) -> Tensor:
        return z

    def more(self: Node, x: Tensor, z: Tensor) -> Tensor:
        return x

    text = "Toy.forward takes ['z'] but the class declares inputs ['x']"
    assert refused(forward=other) == text
    text = "Toy.forward takes ['x', 'z'] but the class declares inputs ['x']"
    assert refused(forward=more) == text
    assert refused(evaluate=other) == "Toy.evaluate takes ['z'] but the class declares inputs ['x']"


def test_there_is_a_forward() -> None:
    with pytest.raises(TypeError) as caught:
        type("Toy", (Node,), {"x": In("embedding", "B D"), "y": Out("embedding", "B D")}, use="toy")
    assert str(caught.value) == "Toy has no forward(x)"


def test_ports_are_named_and_typed() -> None:
    with pytest.raises(ValueError, match="'picture' is no kind; the kinds are image, tokens,"):
        In("picture", "B D")
    with pytest.raises(ValueError, match="'b-d' in 'B b-d' is no axis: use names, numbers or a"):
        In("image", "B b-d")
    with pytest.raises(ValueError, match=r"'...' in 'B ...' is no axis"):
        In("image", "B ...")


def test_axes_in_small_letters_are_settings() -> None:
    assert refused(y=Out("embedding", "B width")) == (
        "Toy.y: axis 'width' is not a field of Toy.Config "
        "(lower case means the value of a setting; use upper case for a free axis)"
    )


def test_kinds_that_pass_through_come_from_an_input() -> None:
    assert refused(y=Out("T", "B D")) == "Toy.y: no input has the kind T"


def test_outputs() -> None:
    assert refused(y=None) == "Toy declares no output: add a class attribute `y = Out(...)`"
    both: dict[str, Any] = {name: Out("embedding", "B D", main=True) for name in ("y", "z")}
    assert refused(**both) == "Toy declares two main outputs"


@pytest.mark.parametrize("name", ["half", "eval", "sizes", "writes", "config", "sample", "limits"])
def test_names_that_nodes_use(name: str) -> None:
    text = f"Toy.{name}: nodes use this name themselves; take another"
    assert refused(**{name: Out("embedding", "B D")}) == text


def test_settings() -> None:
    class Word(Node.Config):
        train: int = 1

    class Hiding(Node.Config):
        half: Number = 1.0

    class Twice(Node.Config):
        x: int = 1

    class Foreign(BaseModel):
        z: int = 1

    assert refused(Config=Word) == "Toy.Config.train: the language uses this word itself"
    text = "Toy.Config.half: torch modules use this name; take another"
    assert refused(Config=Hiding) == text
    assert refused(Config=Twice) == "Toy.x: a setting has this name too; take another"
    assert refused(Config=Foreign) == "Toy.Config: write `class Config(Node.Config)`"


def test_writes() -> None:
    def write(self: Node, z: Tensor) -> None: ...

    moments = "('batch', 'step', 'epoch')"
    whole = f"Toy: a node that writes has `write` and one of writes = {moments}"
    z = In("embedding", "V B D", at="write")
    x: dict[str, Any] = {"x": In("embedding", "V B D"), "y": Out("embedding", "V B D")}
    assert refused(writes="batch") == whole
    assert refused(z=z, write=write, **x) == whole
    assert refused(z=z, write=write, writes="often", **x) == whole
    assert refused(z=z, writes="batch", **x) == "Toy has no write(z)"
    assert refused(write=write, writes="batch") == (
        "Toy.write takes ['z'] but the class declares inputs []"
    )
    assert refused(z=z, write=write, writes="step", **x) == (
        "Toy: `write` of writes = 'step' takes no input, since the batch is over by then; "
        "keep what it needs with writes = 'batch', and use it in `commit`"
    )
    commits = "Toy: a node that commits has `commit` and one of commits = ('step', 'epoch')"
    assert refused(z=z, write=write, writes="batch", commits="epoch", **x) == commits
    assert refused(commits="epoch", commit=lambda self: None, **x) == (
        "Toy: what is committed was written with writes = 'batch'"
    )
    lifted = In("embedding", "B D", at="write")
    text = "Toy.z: what is written comes with all views; begin with V"
    assert refused(z=lifted, write=write, writes="batch") == text


def test_views_are_lifted_for_all_ports_or_none() -> None:
    assert refused(y=Out("embedding", "V B D")) == (
        "Toy.y: 'V B D' does not fit beside 'B D' of x, which is taken one view at a time; "
        "begin either all axes with B or all with V B"
    )
    assert "Toy.y: '' does not fit beside 'B D' of x" in refused(y=Out("loss", ""))


def test_gathers() -> None:
    text = "Toy.gathers: '{}': '{}' is not an input with an axis B and one of no, no_grad, grad"
    assert refused(gathers={"z": "grad"}) == text.format("z", "grad")
    assert refused(gathers={"x": "always"}) == text.format("x", "always")


def test_names_of_types() -> None:
    registry.find("nt_xent")
    assert refused(ValueError, use="nt_xent") == (
        "node type 'nt_xent' is a shipped one (in sslgraph.nodes.losses.nt_xent): take another name"
    )
    registry.find("stop_grad")
    body = {"x": In("T", "..."), "y": Out("T", "..."), "forward": passing}
    type("First", (Node,), body, use="twice")
    with pytest.raises(ValueError, match=r"node type 'twice' is declared twice: in .*test_base"):
        type("Second", (Node,), dict(body), use="twice")
    with pytest.raises(registry.UnknownNodeTypeError):
        registry.find("nowhere")


def test_a_part_may_not_hide_a_port() -> None:
    def build(self: Any, D: int) -> None:
        self.y = nn.Linear(D, D)

    body = {"x": In("embedding", "B D"), "y": Out("embedding", "B D"), "forward": passing}
    made: Any = type("Toy", (Node,), {**body, "build": build}, use="toy")
    with pytest.raises(TypeError, match=r"Toy.build sets self.y, but a port has that name"):
        made(axes={"D": 3})


def test_one_node_without_a_graph() -> None:
    assert isinstance(sslgraph.node("nt_xent", temperature=0.5), nn.Module)
    with pytest.raises(ValueError, match="no node type 'nt_xnet': did you mean 'nt_xent'"):
        sslgraph.node("nt_xnet")
    with pytest.raises(ValueError, match="nt_xent has no setting 'temprature': did you mean 'temp"):
        make_node("nt_xent", temprature=0.5)
    with pytest.raises(
        ValueError, match=r"nt_xent.temperature: Input should be greater than 0, got 0"
    ):
        make_node("nt_xent", temperature=0)
    with pytest.raises(
        ValueError, match=r"encoder.arch: timm has no model 'resnet500': did you mean"
    ):
        make_node("encoder", arch="resnet500")
    with pytest.raises(ValueError, match="projector needs the size of D"):
        make_node("projector", axes={})
    with pytest.raises(TypeError, match=r"nt_xent takes x: embedding\[V B D\]: unknown \['z'\]"):
        make_node("nt_xent")(z=torch.ones(2, 3, 4))


def test_sizes_come_from_the_first_call() -> None:
    node = make_node("projector", hidden=[5], out=2)
    x = torch.randn(2, 4, 3)
    assert node(x).shape == (2, 4, 2)
    told = make_node("projector", axes={"D": 3}, hidden=[5], out=2)
    assert torch.equal(node(x), told(x))
    encoder = make_node("encoder", arch="test_resnet")
    with pytest.raises(
        ValueError, match=r"encoder.image takes image\[V B C H W\], got a tensor of"
    ):
        encoder(torch.ones(3, 4))


def test_numbers_are_buffers() -> None:
    class Toy(Node, use="toy"):
        x = In("embedding", "B D")
        y = Out("embedding", "B D")

        class Config(Node.Config):
            still: Number = 0.5
            moving: Number = 0.5
            trained: LearnableNumber = 0.5
            absent: Number | None = None

        forward = passing

    node: Any = make_node("toy", moving={"linear": [3, 4]}, trained={"learned": 0.25})
    assert (node.still.item(), node.moving.item(), node.trained.item()) == (0.5, 3.0, 0.25)
    assert node.absent is None
    assert list(node.schedules) == ["moving"]
    assert isinstance(node.trained, nn.Parameter)
    assert list(node.state_dict()) == ["trained"]  # the clock knows the others


def test_inputs_in_any_order_and_by_name() -> None:
    class Toy(Node, use="toy"):
        a = In("embedding", "B D")
        b = In("embedding", "B D", optional=True)
        y = Out("embedding", "B D")

        def forward(self, b: Tensor | None, a: Tensor) -> Tensor:
            return a if b is None else a - b

    node = make_node("toy")
    a, b = torch.full((2, 3, 4), 5.0), torch.full((1, 3, 4), 2.0)  # one view meets two
    assert torch.equal(node(a, b), torch.full((2, 3, 4), 3.0))
    assert torch.equal(node(b=b, a=a), torch.full((2, 3, 4), 3.0))
    assert torch.equal(node(a), a)
    assert torch.equal(node(a[0]), a[0])  # without views as well
    with pytest.raises(TypeError, match=r"toy takes a: embedding.* missing \['a'\]"):
        node(b=b)
