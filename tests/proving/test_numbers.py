"""Half precision and compilation, seen to fail."""

from __future__ import annotations

import re

from tests.proving.graphs import failure, passes, with_loss, with_node


def test_a_loss_that_overflows_in_half_precision_is_found() -> None:
    assert re.fullmatch(r"loss is inf in bfloat16", failure(with_loss("broken_narrow"), "autocast"))


def test_a_node_that_differs_when_compiled_is_found() -> None:
    text = failure(with_node("broken_shortcut"), "compiled")
    assert re.fullmatch(r"the gradient of \S+ is off by \S+ when compiled|loss is .*", text)


def test_a_node_that_is_compiled_anew_is_found() -> None:
    assert failure(with_node("broken_constant"), "compiled") == (
        "step 2 was compiled anew (1 region): a number that changes reaches the code as a constant"
    )


def test_sound_graphs_pass() -> None:
    found = passes(with_loss("nt_xent"), "autocast")
    assert re.fullmatch(r"loss \S+ in bfloat16, \S+ in float64, gradients finite", found)
    found = passes(with_loss("nt_xent"), "compiled")
    assert re.fullmatch(r"2 steps, 1 region, apart by \S+ at most", found)
