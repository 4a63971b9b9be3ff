import pytest

from sslgraph.spec import Reference, is_node_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder", ("encoder", None, None, None)),
        ("encoder.tokens", ("encoder", "tokens", None, None)),
        ("crops.global", ("crops", "global", None, None)),
        ("views.3", ("views", None, 3, 4)),
        ("views.0:2", ("views", None, 0, 2)),
        ("views.1:", ("views", None, 1, None)),
        ("views.:2", ("views", None, None, 2)),
        ("encoder.tokens.0", ("encoder", "tokens", 0, 1)),
        ("teacher.encoder.tokens", ("teacher", "encoder.tokens", None, None)),
        ("teacher.encoder.tokens.2:10", ("teacher", "encoder.tokens", 2, 10)),
        ("batch.image", ("batch", "image", None, None)),
        ("encoder.tap9", ("encoder", "tap9", None, None)),
    ],
)
def test_references(text: str, expected: tuple[str, str | None, int | None, int | None]) -> None:
    found = Reference.parse(text, ("nodes", "a", "in"))
    assert found is not None
    assert (found.node, found.port, found.start, found.stop) == expected
    assert (found.path, found.text) == (("nodes", "a", "in"), text)
    assert found.sliced == (expected[2:] != (None, None))


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", "a.:", "a..b", "a.2:1", "a.1:1", "a.0.b", "a.-1", "A", "a b", "a[0]", "9a",
     "a.1:2:3", "a.9999999", "a\n", "views.\u0663"],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    assert Reference.parse(text, ()) is None


def test_names_of_nodes() -> None:
    assert all(map(is_node_name, ["a", "encoder", "view_2", "x9"]))
    assert not any(map(is_node_name, ["", "A", "_a", "9", "batch", "lambda", "in", "a-b", "a\n"]))
