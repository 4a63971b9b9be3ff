"""What arrives at an input, in training and in evaluation."""

from __future__ import annotations

import torch

from sslgraph.plan import make_plan
from sslgraph.walk import joined, on_the_wire, value_of
from tests.toys import TWO_VIEWS, graph, images

A = torch.arange(6.0).view(3, 2)
ONE = torch.full((1, 2), 9.0)


def test_joining_in_evaluation() -> None:
    assert joined((ONE, 1, 2)) is ONE
    assert joined((ONE, 0, 1), (ONE, 1, 2), (ONE, None, None)) is ONE
    assert torch.equal(joined((A, 1, 3)), A[1:3])
    assert torch.equal(joined((ONE, 0, 1), (A, 2, None)), torch.cat([ONE, A[2:]]))


def test_a_list_of_references() -> None:
    nodes = {**TWO_VIEWS, "loss": {"use": "nt_xent", "in": ["head.1", "head"]}}
    wires = make_plan(graph(nodes)).step("loss").inputs["x"]
    values = {("head", "y"): A}
    assert torch.equal(value_of(wires, values, evaluating=False), torch.cat([A[1:2], A]))
    assert torch.equal(value_of(wires, values, evaluating=True), torch.cat([A[1:2], A]))
    one = {("head", "y"): ONE}
    assert value_of(wires, one, evaluating=True) is ONE


def test_the_data_has_one_view() -> None:
    values = on_the_wire({"image": images(4), "index": torch.arange(4)})
    assert values["batch", "image"].shape == (1, 4, 3, 8, 8)
    assert values["batch", "index"].shape == (1, 4)
