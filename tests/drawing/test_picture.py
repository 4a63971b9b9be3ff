"""What is drawn and how it is marked, before any format."""

from sslgraph.drawing.dot import dot
from sslgraph.drawing.picture import Arrow, Box, Picture, picture
from sslgraph.drawing.style import legend
from sslgraph.plan import Plan
from tests.drawing.conftest import GRAPH, Planner, changed


def box(drawn: Picture, id_: str) -> Box:
    return next(box for box in drawn.boxes if box.id == id_)


def arrow(drawn: Picture, tail: str, head: str, line: str = "") -> Arrow:
    found = [a for a in drawn.arrows if (a.tail, a.head) == (tail, head) and line in ("", a.line)]
    assert len(found) == 1, found
    return found[0]


def test_every_node_input_and_output_is_a_box(plan: Plan) -> None:
    names = [b.id for b in picture(plan).boxes]
    assert names[0] == "batch.image"
    assert names[-2:] == ["outputs.0", "outputs.1"]
    assert sorted(names[1:-2]) == sorted(GRAPH["nodes"])


def test_every_wire_that_the_graph_spells_is_an_arrow(plan: Plan) -> None:
    assert sorted((a.tail, a.head, a.input) for a in picture(plan).arrows) == sorted(
        [
            ("batch.image", "views", ""),
            ("views", "body", ""),
            ("body", "top", ""),
            ("views", "slow", ""),
            ("body", "slow", ""),  # the weights of both
            ("top", "slow", ""),
            ("slow", "past", ""),
            ("top", "fixed", ""),
            ("top", "near", "guess"),
            ("slow", "near", "goal"),
            ("top", "far", "guess"),
            ("past", "far", "goal"),
            ("top", "same", "guess"),
            ("fixed", "same", "goal"),
            ("body", "outputs.0", ""),
            ("body", "outputs.1", ""),
        ]
    )


def test_roles_follow_from_declarations(plan: Plan) -> None:
    assert {b.id: b.role for b in picture(plan).boxes if not b.id.startswith("outputs")} == {
        "batch.image": "data",
        "views": "random",
        "body": "network",
        "top": "network",
        "slow": "copy",
        "past": "memory",
        "fixed": "plain",
        "near": "loss",
        "far": "loss",
        "same": "loss",
    }


def test_parameters_tell_networks_from_functions(plan: Plan) -> None:
    drawn = picture(plan, parameters={"body": 23_508_032, "top": 0})
    assert box(drawn, "body").role == "network"
    assert box(drawn, "body").details == ("width: 16", "23.5 M parameters")
    assert box(drawn, "top").role == "plain"


def test_without_parameters_a_type_that_builds_is_a_network(plan_of: Planner) -> None:
    nodes = {
        **GRAPH["nodes"],
        "calm": {"use": "keep", "in": "slow"},
        "near": {"use": "compare", "in": {"guess": "top", "goal": "calm"}},
    }
    drawn = picture(plan_of(nodes=nodes))
    assert box(drawn, "calm").role == "plain"
    assert arrow(drawn, "slow", "calm").line == "stopped"
    assert arrow(drawn, "calm", "near").line == "stopped"
    assert drawn.regions == (("slow", "past", "calm"),)


def test_lines_say_where_gradients_pass(plan: Plan) -> None:
    drawn = picture(plan)
    assert arrow(drawn, "batch.image", "views").line == "data"
    assert arrow(drawn, "views", "body").line == "data"
    assert arrow(drawn, "views", "slow").line == "data"
    assert arrow(drawn, "body", "top").line == "gradient"
    assert arrow(drawn, "top", "near").line == "gradient"
    assert arrow(drawn, "slow", "near").line == "stopped"
    assert arrow(drawn, "past", "far").line == "stopped"
    assert arrow(drawn, "top", "fixed").line == "stopped"
    assert arrow(drawn, "fixed", "same").line == "stopped"
    assert arrow(drawn, "slow", "past").line == "write"
    assert arrow(drawn, "body", "slow").line == "weights"
    assert arrow(drawn, "top", "slow").line == "weights"
    assert arrow(drawn, "body", "outputs.0").line == "output"


def test_a_gradient_needs_something_trained(plan_of: Planner) -> None:
    nodes = changed("body", train=False) | changed("top", train=False)
    drawn = picture(plan_of(nodes={**GRAPH["nodes"], **nodes}))
    assert arrow(drawn, "top", "near").line == "stopped"
    assert "train: false" in box(drawn, "top").details


def test_a_gradient_passes_what_is_not_trained(plan_of: Planner) -> None:
    drawn = picture(plan_of(nodes={**GRAPH["nodes"], **changed("top", train=False)}))
    assert arrow(drawn, "body", "top").line == "gradient"
    assert arrow(drawn, "top", "near").line == "gradient"


def test_a_stop_cuts_all_that_is_before_it(plan_of: Planner) -> None:
    nodes = {name: GRAPH["nodes"][name] for name in ("views", "body", "top", "fixed")}
    nodes |= {"end": {"use": "head", "in": "fixed"}, "apart": {"use": "spread", "in": "end"}}
    drawn = picture(plan_of(nodes=nodes, minimize={"apart": 1.0}))
    assert arrow(drawn, "body", "top").line == "stopped"
    assert arrow(drawn, "fixed", "end").line == "stopped"
    assert arrow(drawn, "end", "apart").line == "gradient"
    assert drawn.regions == (("body", "top", "fixed"),)


def test_a_node_with_the_weights_of_another_passes_gradients(plan_of: Planner) -> None:
    nodes = {
        "views": GRAPH["nodes"]["views"],
        "body": {"use": "net", "in": "views.wide"},
        "second": {"use": "again", "of": "body", "in": "views.narrow"},
        "apart": {"use": "compare", "in": {"guess": "second", "goal": "body.vector"}},
    }
    plan = plan_of(nodes=nodes, minimize={"apart": 1.0})
    drawn = picture(plan, parameters={"body": 10, "second": 0})
    assert box(drawn, "second").role == "network"
    assert arrow(drawn, "second", "apart").line == "gradient"
    assert arrow(drawn, "body", "second").line == "weights"


def test_what_no_gradient_reaches_is_a_region(plan: Plan) -> None:
    assert picture(plan).regions == (("slow", "past"),)
    assert box(picture(plan), "fixed").stops
    assert not box(picture(plan), "top").stops


def test_details_are_settings_schedules_and_weights_of_losses(plan: Plan) -> None:
    drawn = picture(plan)
    assert box(drawn, "slow").details == ("copy of body, top", "momentum: 0.996 -> 1")
    assert box(drawn, "near").details == ("minimize: 1",)
    assert box(drawn, "same").details == ("minimize: 0 -> 2",)


def test_at_most_four_settings_and_those_that_differ_first(plan_of: Planner) -> None:
    every = {"width": 8, "momentum": 0.9, "note": "n", "mode": "a", "depth": 2, "parts": {"a": 1}}
    drawn = picture(plan_of(nodes={**GRAPH["nodes"], **changed("top", **every)}))
    assert box(drawn, "top").details == (
        "width: 8",
        "note: n",
        "depth: 2",
        "parts: a 1",
        "and 2 more",
    )


def test_labels_name_port_views_kind_and_number_of_views(plan: Plan) -> None:
    drawn = picture(plan)
    assert arrow(drawn, "views", "body").words == ("wide", "image, 2 views")
    assert arrow(drawn, "top", "near").words == (".0", "embedding")
    assert arrow(drawn, "body", "outputs.0").words == ("vector", "")  # said on the way to top
    assert arrow(drawn, "body", "outputs.1").words == ("tokens", "2 views")


def test_labels_show_shapes_where_they_are_known(plan: Plan) -> None:
    shapes = {("top", "y"): ("2", "B", "128"), ("body", "tokens"): ("2", "B", "49", "512")}
    drawn = picture(plan, shapes)
    assert arrow(drawn, "top", "far").words == ("", "embedding [2 B 128]")
    assert arrow(drawn, "top", "near").words == (".0", "embedding [1 B 128]")
    assert arrow(drawn, "body", "outputs.1").words == ("tokens", "[2 B 49 512]")


def test_slices_of_views_are_written_as_in_the_graph(plan_of: Planner) -> None:
    nodes = changed("far", **{"in": {"guess": "top.1:", "goal": "past"}})
    drawn = picture(plan_of(nodes={**GRAPH["nodes"], **nodes}), {("top", "y"): ("3", "B", "8")})
    assert arrow(drawn, "top", "far").words == (".1:", "embedding [2 B 8]")


def test_the_legend_has_what_occurs(plan: Plan, plan_of: Planner) -> None:
    whole = legend(picture(plan))
    assert whole.roles == ("random", "network", "plain", "copy", "memory", "loss")
    assert whole.lines == ("gradient", "stopped", "write", "weights")
    assert whole.stops
    nodes = {name: GRAPH["nodes"][name] for name in ("views", "body", "top")}
    nodes["apart"] = {"use": "spread", "in": "top"}
    small = legend(picture(plan_of(nodes=nodes, minimize={"apart": 1.0})))
    assert small.roles == ("random", "network", "loss")
    assert small.lines == ("gradient",)
    assert not small.stops


def test_long_names_are_shortened_in_the_middle(plan_of: Planner) -> None:
    name = "a" * 100 + "b" * 100
    nodes = {**GRAPH["nodes"], name: {"use": "head", "in": "top"}}
    drawn = picture(plan_of(nodes=nodes, outputs={"embedding": name}))
    assert box(drawn, name).title == "a" * 17 + "..." + "b" * 16


def test_a_node_that_repeats_others_is_tied_to_each_and_names_them(plan_of: Planner) -> None:
    nodes = {
        **GRAPH["nodes"],
        "second": {"use": "again", "of": ["body", "slow.top"], "in": "views.narrow"},
        "apart": {"use": "compare", "in": {"guess": "second", "goal": "slow"}},
    }
    drawn = picture(plan_of(nodes=nodes, minimize={"near": 1.0, "apart": 1.0}))
    assert box(drawn, "second").details == ("weights of body, slow.top",)
    assert box(drawn, "slow").details[0] == "copy of body, top"
    tied = [(a.tail, a.head) for a in drawn.arrows if a.line == "weights"]
    assert sorted(tied) == [
        ("body", "second"),
        ("body", "slow"),
        ("slow", "second"),
        ("top", "slow"),
    ]
    source = dot(drawn)
    (line,) = [line for line in source.splitlines() if line.strip().startswith("top -> slow")]
    assert "arrowhead=none" in line
    assert "style=dotted" in line
    assert "constraint=false" in line


def test_the_kind_is_not_said_again_by_a_port_of_a_member() -> None:
    wire = Arrow("slow", "near", "data", port="body.tokens", kind="tokens", size="2 views")
    assert wire.words == ("body.tokens", "2 views")
