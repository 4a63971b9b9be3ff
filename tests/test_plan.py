"""The plan: which steps run in which order, what a reference means, sizes of the data."""

from __future__ import annotations

import pytest

from sslgraph.errors import GraphError
from sslgraph.plan import make_plan
from tests.toys import TWO_VIEWS, graph


def test_producers_come_first_whatever_the_order_of_the_text() -> None:
    reverse = dict(reversed(TWO_VIEWS.items()))
    assert [s.name for s in make_plan(graph(reverse)).steps] == ["views", "pixels", "head", "loss"]


def test_what_nobody_needs_is_left_out() -> None:
    nodes = {**TWO_VIEWS, "idle": {"use": "toy_scale", "in": "head"}}
    assert [s.name for s in make_plan(graph(nodes)).steps] == list(TWO_VIEWS)
    kept = make_plan(graph(nodes, outputs={"idle": "idle"}))
    assert [s.name for s in kept.steps][-1] in ("idle", "loss")
    assert len(kept.steps) == 5


def test_a_memory_is_needed_with_what_it_stores() -> None:
    nodes = {
        **TWO_VIEWS,
        "keys": {"use": "toy_scale", "in": "pixels"},
        "memory": {"use": "toy_memory", "in": "keys"},
        "loss": {"use": "toy_far", "in": {"a": "head", "items": "memory"}},
    }
    assert {s.name for s in make_plan(graph(nodes)).steps} == set(nodes)


def test_steps_that_a_port_needs() -> None:
    plan = make_plan(graph(TWO_VIEWS))

    def needed(fetch: tuple[str, str], *feed: tuple[str, str]) -> list[str]:
        return [step.name for step in plan.needed([fetch], feed)]

    assert needed(("head", "y")) == ["views", "pixels", "head"]
    assert needed(("head", "y"), ("pixels", "mean")) == ["head"]
    assert needed(("head", "y"), ("pixels", "spread")) == ["views", "pixels", "head"]
    assert needed(("head", "y"), ("head", "y")) == []


def test_identities_of_views() -> None:
    nodes = {**TWO_VIEWS, "loss": {"use": "nt_xent", "in": ["head.1", "head.0"]}}
    plan = make_plan(graph(nodes))
    assert plan.identities["views", "y"] == ("views.0", "views.1")
    assert plan.identities["head", "y"] == ("views.0", "views.1")
    assert plan.kinds["pixels", "spread"] == "embedding"
    (first, second) = plan.step("loss").inputs["x"]
    assert [w.views_of(plan.identities["head", "y"]) for w in (first, second)] == [
        ("views.1",),
        ("views.0",),
    ]


@pytest.mark.parametrize(("size", "canvas"), [(224, 256), (32, 37), (96, 110), (7, 8), (1, 2)])
def test_the_canvas_is_8_sevenths_of_the_largest_view(size: int, canvas: int) -> None:
    nodes = {
        "views": {"use": "augment", "in": "batch.image", "size": size},
        "small": {"use": "augment", "in": "batch.image", "size": 1},
        "pixels": {"use": "toy_pixels", "in": "views"},
        "other": {"use": "toy_pixels", "in": "small"},
        "loss": {"use": "nt_xent", "in": ["pixels", "other"]},
    }
    assert make_plan(graph(nodes)).canvas() == canvas


def test_references() -> None:
    plan = make_plan(graph(TWO_VIEWS))
    assert plan.wire("pixels").source == ("pixels", "mean")
    assert plan.wire("pixels.spread.0").reference.stop == 1
    assert plan.wire("batch.image").source == ("batch", "image")
    for text, title in {
        "pixels.": "'pixels.' is no reference",
        "pixles": "no node named 'pixles'",
        "pixels.maen": "pixels has no output 'maen'",
        "batch.images": "the data gives no 'batch.images'",
    }.items():
        with pytest.raises(GraphError) as caught:
            plan.wire(text)
        assert caught.value.problems[0].title == title


def test_a_broken_graph_has_no_plan() -> None:
    nodes = {**TWO_VIEWS, "loss": {"use": "nt_xent", "in": "haed"}}
    with pytest.raises(GraphError, match="did you mean 'head'"):
        make_plan(graph(nodes))
