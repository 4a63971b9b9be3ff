"""The contract of a node type, tested from its declaration and its `sample`.

    def test_my_node():
        sslgraph.testing.check_node("my_node")

Every property is a function of a `Subject`: it returns an empty text where the property holds, a
text where it does not apply, and raises AssertionError where it is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sslgraph.nodes.base import Node
from sslgraph.testing.calls import kinds, lifting, pure, randomness, shapes, sizes
from sslgraph.testing.numbers import autocast, compiled, gradients
from sslgraph.testing.state import copies, evaluation, learning, settings_kept, state_kept, writing
from sslgraph.testing.subject import Subject

HOLDS = "holds"

PROPERTIES: Mapping[str, Callable[[Subject], str]] = {
    "shapes": shapes,
    "kinds": kinds,
    "lifting": lifting,
    "pure": pure,
    "randomness": randomness,
    "evaluation": evaluation,
    "writing": writing,
    "gradients": gradients,
    "autocast": autocast,
    "learning": learning,
    "settings": settings_kept,
    "state": state_kept,
    "copies": copies,
    "sizes": sizes,
    "compiled": compiled,
}
"""Name of each property -> its test."""


def check_node(
    use_or_class: str | type[Node],
    *,
    axes: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[tuple[str, str]]:
    """Test that a node type keeps what its declaration says.

    Args:
        use_or_class: A node type's name or class.
        axes: Sizes of its input axes, beside those of its `sample_axes`.
        settings: Settings in the place of its `sample`.

    Returns:
        Each property with `holds` or the reason why it does not apply.

    Raises:
        AssertionError: A property is broken; the text says node, property, found and expected.
    """
    subject = Subject.of(use_or_class, axes=axes, settings=settings)
    return [(name, test(subject) or HOLDS) for name, test in PROPERTIES.items()]
