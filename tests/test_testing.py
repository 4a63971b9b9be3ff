"""Each property of the contract is broken by a node: its test is known to be able to fail."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslgraph.nodes.base import Node
from sslgraph.ports import In, Out
from sslgraph.schedules import Number
from sslgraph.testing import HOLDS, PROPERTIES, check_node
from sslgraph.testing.subject import Subject


def broken(node: type[Node], property: str) -> str:
    """The text with which a property fails."""
    with pytest.raises(AssertionError) as caught:
        PROPERTIES[property](Subject.of(node))
    return str(caught.value)


class PerImage(Node):
    """A base without a name: an embedding goes in and comes out."""

    x = In("embedding", "B D")
    y = Out("embedding", "B D")


class Scaled(PerImage, use="test_scaled"):
    """At the top of the module, so that it can be pickled."""

    class Config(Node.Config):
        factor: Number = 2.0

    factor: Tensor

    def build(self, D: int) -> None:
        self.layer = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) * self.factor
        return y


def test_a_good_node_holds_or_says_why_not() -> None:
    assert check_node(Scaled) == [
        (name, "the node writes nothing" if name == "writing" else HOLDS) for name in PROPERTIES
    ]
    small = check_node("test_scaled", axes={"D": 3}, settings={"factor": 0.5})
    assert small[0] == ("shapes", HOLDS)


def test_shapes() -> None:
    class Wide(PerImage, use="wide"):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x], -1)

    assert broken(Wide, "shapes") == (
        "wide: shape of output y with 1 views\n"
        "  found:    (1, 5, 14)\n"
        "  expected: embedding[V B D], {'V': 1, 'B': 5, 'D': 7}"
    )


def test_shapes_with_few_views() -> None:
    class FirstView(Node, use="first_view"):
        x = In("embedding", "V B D")
        y = Out("embedding", "V B D")

        def forward(self, x: Tensor) -> Tensor:
            return x[:1]

    assert "shape of output y with 2 views" in broken(FirstView, "shapes")


@pytest.mark.parametrize(
    ("kind", "make", "text"),
    [
        ("mask", lambda x: (x > 0).float(), "a mask of true and false"),
        ("label", lambda x: x, "whole numbers for label"),
        ("embedding", lambda x: x > 0, "floating point numbers for embedding"),
        ("embedding", lambda x: x / 0, "finite numbers"),
        ("probs", lambda x: x, "rows >= 0 that sum to 1"),
        ("probs", lambda x: x.sigmoid(), "rows >= 0 that sum to 1"),
    ],
)
def test_kinds(kind: str, make: Any, text: str) -> None:
    class Odd(Node, use="odd"):
        x = In("embedding", "B D")
        y = Out(kind, "B D")

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = make(x)
            return y

    assert text in broken(Odd, "kinds")


def test_lifting() -> None:
    class Centred(PerImage, use="centred"):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)  # the views are folded into this batch

    assert "lifting of output y (training)" in broken(Centred, "lifting")


def test_a_node_that_spells_its_views_is_not_lifted() -> None:
    class Whole(Node, use="whole"):
        x = In("embedding", "V B D")
        y = Out("embedding", "V B D")

        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    assert PROPERTIES["lifting"](Subject.of(Whole)) == "the node spells the view axis itself"


def test_pure_inputs() -> None:
    class InPlace(PerImage, use="in_place"):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    assert "input x was changed" in broken(InPlace, "pure")


def test_pure_state() -> None:
    class Counting(PerImage, use="counting"):
        def build(self) -> None:
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)  # type: ignore[operator]
            return x

    assert "calls was changed" in broken(Counting, "pure")


def test_randomness_of_the_global_generator() -> None:
    class Noisy(PerImage, use="noisy"):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(x, 0.5, self.training)

    assert "a global generator was used" in broken(Noisy, "randomness")


def test_randomness_that_changes_from_call_to_call() -> None:
    class Ticking(PerImage, use="ticking"):
        def build(self) -> None:
            self.calls = calls

        def forward(self, x: Tensor) -> Tensor:
            return x + next(self.calls)

    calls = itertools.count()
    assert "two equal calls differ in y" in broken(Ticking, "randomness")


def test_randomness_of_the_place_in_the_batch() -> None:
    class ByPlace(Node, use="by_place"):
        image = In("image", "1 B C H W")
        position = In("index", "1 B", default="batch.index")
        y = Out("image", "1 B C H W")
        draws = True

        def forward(self, image: Tensor, position: Tensor) -> Tensor:
            noise = torch.rand(image.shape[1], generator=torch.Generator().manual_seed(1))
            return image + noise.view(1, -1, 1, 1, 1)

    assert "y of a sample changes with its batch" in broken(ByPlace, "randomness")


def test_randomness_that_all_samples_share() -> None:
    class Shared(Node, use="shared_noise"):
        image = In("image", "1 B C H W")
        position = In("index", "1 B", default="batch.index")
        y = Out("image", "1 B C H W")
        draws = True

        def forward(self, image: Tensor, position: Tensor) -> Tensor:
            return image + torch.rand((), generator=torch.Generator().manual_seed(1))

    assert "y is equal for all positions" in broken(Shared, "randomness")


def test_evaluation_writes() -> None:
    class Filled(PerImage, use="filled"):
        def build(self) -> None:
            self.register_buffer("last", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return x

        def evaluate(self, x: Tensor) -> Tensor:
            self.last.copy_(x.mean())  # type: ignore[operator]
            return x

    assert "last was changed" in broken(Filled, "evaluation")


def test_evaluation_of_views() -> None:
    class Many(Node, use="many"):
        image = In("image", "1 B C H W")
        y = Out("image", "views B C H W")
        draws = True

        class Config(Node.Config):
            views: int = 2

        def forward(self, image: Tensor) -> Tensor:
            return image.expand(2, -1, -1, -1, -1)

    assert "evaluation of output y\n  found:    2 views" in broken(Many, "evaluation")


class Memory(Node, use="test_memory"):
    """The last batch, read before it is written; at the top of the module to be pickled."""

    x = In("embedding", "V B D", at="write")
    y = Out("embedding", "V B D")
    writes = "batch"

    def build(self, V: int, B: int, D: int) -> None:
        self.register_buffer("kept", torch.zeros(V, B, D))

    kept: Tensor

    def forward(self) -> Tensor:
        return self.kept.clone()

    def write(self, x: Tensor) -> None:
        self.kept.copy_(x)


def test_a_good_memory() -> None:
    found = dict(check_node(Memory))
    assert found["writing"] == found["state"] == found["pure"] == HOLDS


def test_writing_over_what_was_read() -> None:
    class Exposed(Memory, use="exposed"):
        def forward(self) -> Tensor:
            return self.kept

    assert "y, read before, was changed by the write" in broken(Exposed, "writing")


def test_writing_what_is_no_buffer() -> None:
    class Hidden(Memory, use="hidden"):
        def write(self, x: Tensor) -> None:
            self.secret = x

    assert "a write that changes no buffer" in broken(Hidden, "writing")


def test_writing_what_backward_needs() -> None:
    class Scaled(Node, use="scaled"):
        x = In("embedding", "V B D")
        z = In("embedding", "V B D", at="write")
        y = Out("embedding", "V B D")
        writes = "batch"

        def build(self, D: int) -> None:
            self.register_buffer("scale", torch.ones(D))

        scale: Tensor

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

        def write(self, z: Tensor) -> None:
            self.scale.copy_(z.mean((0, 1)))

    assert "backward after the write fails" in broken(Scaled, "writing")


def test_gradients_of_parameters() -> None:
    class Unused(PerImage, use="unused"):
        def build(self, D: int) -> None:
            self.layer = nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    assert broken(Unused, "gradients") == (
        "unused: gradient of parameter layer.weight\n  found:    none\n  expected: a gradient"
    )


def test_gradients_that_a_node_cuts_without_saying() -> None:
    class Cutting(PerImage, use="cutting"):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    assert "gradient of input x\n  found:    none" in broken(Cutting, "gradients")


def test_gradients_past_a_declared_stop() -> None:
    class Leaking(PerImage, use="leaking"):
        stops_gradient = True

        def forward(self, x: Tensor) -> Tensor:
            return x * 1

    assert "none: it stops gradients" in broken(Leaking, "gradients")


def test_gradients_that_are_not_finite() -> None:
    class Steep(PerImage, use="steep"):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x).sqrt() + x

    assert "numbers that are not finite" in broken(Steep, "gradients")


def test_autocast() -> None:
    class Overflowing(PerImage, use="overflowing"):
        def build(self, D: int) -> None:
            self.layer = nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return y if y.dtype == torch.float32 else y / 0

    assert "autocast of output y" in broken(Overflowing, "autocast")


def test_settings() -> None:
    class Forgetful(PerImage, use="forgetful"):
        class Config(Node.Config):
            factor: float = 1.0

            def model_dump(self, **keywords: Any) -> dict[str, Any]:
                return {}

        sample = {"factor": 2.0}

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert "settings survive a round trip" in broken(Forgetful, "settings")


def test_state() -> None:
    class Lost(Memory, use="lost"):
        def build(self, V: int, B: int, D: int) -> None:
            self.register_buffer("kept", torch.zeros(V, B, D), persistent=False)

    assert "y differs after load_state_dict" in broken(Lost, "state")


def test_copies_of_a_local_class() -> None:
    class Local(PerImage, use="local"):
        def forward(self, x: Tensor) -> Tensor:
            return x

    assert "no pickle" in broken(Local, "copies")


class Tied(PerImage, use="test_tied"):
    """A deep copy that keeps the weights of the original."""

    sample_axes = {"D": 7}

    def build(self, D: int) -> None:
        self.weight = nn.Parameter(torch.ones(D))

    def __deepcopy__(self, memo: Any) -> Tied:
        clone = Tied(axes={"D": 7})
        clone.weight = self.weight
        return clone

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_copies_that_share() -> None:
    assert "a deep copy shares weight" in broken(Tied, "copies")


def test_weights_that_are_not_declared() -> None:
    class Secret(PerImage, use="secret_weights"):
        learns = False

        def build(self, D: int) -> None:
            self.layer = nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return y

    assert "found:    weights (layer.weight, layer.bias)" in broken(Secret, "learning")


def test_weights_that_are_not_there() -> None:
    class Fixed(PerImage, use="fixed_filter"):
        def build(self, D: int) -> None:
            self.register_buffer("filter", torch.ones(D))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.get_buffer("filter")

    assert broken(Fixed, "learning").endswith("expected: `learns = False` on the class")


def test_sizes() -> None:
    class Misled(PerImage, use="misled"):
        def sizes(self, *shapes: Any) -> Any:
            return ((1, 2, 3),)

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert "size of y on the meta device\n  found:    (1, 2, 3)" in broken(Misled, "sizes")


def test_compiled_otherwise() -> None:
    class Other(PerImage, use="other_when_compiled"):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if torch.compiler.is_compiling() else x * 1

    assert "as not compiled" in broken(Other, "compiled")


def test_compiled_in_parts() -> None:
    class Read(PerImage, use="reads_its_number"):
        class Config(Node.Config):
            factor: Number = 2.0

        factor: Tensor

        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if self.factor > 1 else x

    assert "no graph of the whole" in broken(Read, "compiled")


def test_compiled_again_and_again() -> None:
    class Counting(PerImage, use="counts_in_python"):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * 2 + 0 * self.calls

    assert "compilations" in broken(Counting, "compiled")
