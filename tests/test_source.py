"""Text to a tree: YAML 1.2 scalars, places, limits, hostile text, and the canonical form back."""

import random

import pytest

from sslgraph.canonical import canonical
from sslgraph.errors import Problem, render
from sslgraph.limits import Place, decoded
from sslgraph.reading import parse
from sslgraph.scalars import written
from sslgraph.tree import Tree, parts, plain

HERE = Place("g.yaml")


def tree_of(text: str) -> Tree:
    tree, problems = parse(text, HERE)
    assert not problems, "\n".join(map(render, problems))
    assert tree is not None
    return tree


def data_of(text: str) -> object:
    return plain(tree_of(text))


def codes_of(text: str) -> list[str]:
    tree, problems = parse(text, HERE)
    assert tree is None
    return [problem.code for problem in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("1.01e6", 1010000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.5", -0.5),
        ("+3", 3),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-11-21", "2026-11-21"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("'12'", "12"),
        ('"null"', "null"),
        ("1e", "1e"),
        ("tRue", "tRue"),
    ],
)
def test_scalars_of_yaml_1_2(text: str, value: object) -> None:
    found = data_of(f"a: {text}")
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "1e999", "9" * 25, "0x" + "f" * 5000])
def test_numbers_that_no_setting_can_have(text: str) -> None:
    assert codes_of(f"a: {text}") == ["E012"]


def test_every_key_and_value_has_its_place() -> None:
    tree = tree_of("nodes:\n  head: {use: projector, hidden: [1, 22]}\n")
    spans = {path: tree.origin for path, tree in parts(tree)}
    value = spans["nodes", "head", "use"].value
    assert (value.line, value.column, value.end_column) == (2, 15, 24)
    assert value.text[value.column - 1 : value.end_column - 1] == "projector"
    key = spans["nodes", "head", "hidden"].key
    assert key is not None
    assert key.text[key.column - 1 : key.end_column - 1] == "hidden"
    whole = spans["nodes", "head", "hidden"].value
    assert whole.text[whole.column - 1 : whole.end_column - 1] == "[1, 22]"
    item = spans["nodes", "head", "hidden", 1]
    assert item.key is None
    assert (item.value.column, item.value.end_column) == (38, 40)


def test_aliases_and_merge_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [*a, {z: 5, x: 6}]}\nd: *a\n"
    assert data_of(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 4, "z": 5},
        "d": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("a: 1\nb: 2\na: 3", ["E006"]),
        ("{a: 1, a: 2, a: 3}", ["E006", "E006"]),
        ("a: !!str 1", ["E008"]),
        ("a: ! 1", ["E008"]),
        ("!x {a: 1}", ["E008"]),
        ("%TAG !y! tag:x,2000:\n---\na: !y!z 1", ["E008"]),
        ("1: a", ["E007"]),
        ("true: a", ["E007"]),
        ("[1]: a", ["E007"]),
        ("? {b: 1}\n: a", ["E007"]),
        ("? \n: a", ["E007"]),
        ("&x k: 1\n*x : 2", ["E007"]),
        ("--- a\n--- b", ["E009"]),
        ("a: *b", ["E011"]),
        ("a: &a [*a]", ["E011"]),
        ("a: &a {b: *a}", ["E011"]),
        ("a: {<<: 1}", ["E014"]),
        ("a: {<<: [{b: 1}, 2]}", ["E014"]),
        ("a: \x07", ["E002"]),
        ("a: [1", ["E003"]),
        ("\ta: 1", ["E003"]),
        ("a: b: c", ["E003"]),
        ("a: 'b", ["E003"]),
        ("%YAML 3.0\n---\na: 1", ["E003"]),
        ("a: [", ["E003"]),
        ("a: !!x 1\nb: [*c]\nd: {", ["E008", "E011", "E003"]),
    ],
)
def test_broken_text(text: str, codes: list[str]) -> None:
    assert codes_of(text) == codes


def bomb(width: int, depth: int, line: str) -> str:
    lines = ["a0: &a0 {k: x}"]
    for level in range(1, depth):
        aliases = ", ".join([f"*a{level - 1}"] * width)
        lines.append(line.format(level=level, aliases=aliases))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(9, 10, "a{level}: &a{level} [{aliases}]"),
        bomb(20, 6, "a{level}: &a{level} {{<<: [{aliases}]}}"),
        bomb(1, 9000, "a{level}: &a{level} [{aliases}]"),
        "[" * 3000,
        "{a: " * 3000,
        "- " * 3000 + "a",
        "? " * 3000,
        "a: [" + "1," * 500_000 + "]",
        "a: " + "x" * 20_000,
        "a: 0x" + "1" * 1_000_000,
        "a: " + "'" * 2**20,
        "x" * 2**21,
        "\n".join(f"k{i}: {i}" for i in range(60_000)),
    ],
)
def test_bombs_are_refused(text: str) -> None:
    assert codes_of(text)[-1] == "E010"


def test_a_flood_of_mistakes_is_cut() -> None:
    assert len(codes_of("a: 1\n" * 5000)) == 100


def test_bytes_that_are_no_text() -> None:
    assert decoded(b"\xef\xbb\xbfa: 1", "g.yaml") == "a: 1"
    latin = decoded(b"a: 1\nb: caf\xe9 x\n", "g.yaml")
    assert isinstance(latin, Problem)
    assert (latin.code, latin.span.line, latin.span.column) == ("E002", 2, 7)
    for raw in ("a: 1".encode("utf-16"), b"\xff" * 2**21, b"a" * (2**20 + 1)):
        problem = decoded(raw, "g.yaml")
        assert isinstance(problem, Problem)
        assert "\n" in render(problem)


def test_a_control_character_reaches_no_terminal() -> None:
    _, problems = parse("a: \x1b[2Jx", HERE)
    assert "\x1b" not in render(problems[0])


def test_canonical_form() -> None:
    text = canonical(
        {
            "train": {"lr": 1e-6, "weight": 0.5, "empty": {}},
            "name": "x",
            "nodes": {"a": {"use": "b", "in": {"x": "c.0:2"}, "list": ["1", "on", "null", None]}},
            "sslgraph": 1,
        }
    )
    assert text == (
        "sslgraph: 1\n"
        "name: x\n"
        "nodes:\n"
        '  a: {use: b, in: {x: c.0:2}, list: ["1", on, "null", null]}\n'
        "train: {lr: 1.0e-06, weight: 0.5, empty: {}}\n"
    )


def test_canonical_form_keeps_to_100_columns() -> None:
    data = {
        "summary": "word " * 40 + "end",
        "nodes": {"views": {"ops": [{"crop": [0.08, 1]}] * 30, "a": {"b": {"c": [1.5] * 60}}}},
    }
    text = canonical(data)
    assert max(map(len, text.splitlines())) <= 100
    assert data_of(text) == data


def random_value(draw: random.Random, depth: int) -> object:
    form = draw.randrange(8 if depth < 4 else 6)
    if form == 6:
        return [random_value(draw, depth + 1) for _ in range(draw.randrange(5))]
    if form == 7:
        count = draw.randrange(5)
        return {random_text(draw): random_value(draw, depth + 1) for _ in range(count)}
    number = draw.uniform(-1, 1) * 10.0 ** draw.randrange(-30, 30)
    return [None, True, draw.randrange(-99, 99), number, random_text(draw), random_text(draw)][form]


def random_text(draw: random.Random) -> str:
    letters = "ab1.0 :#'\"-[]{},&*!|>%@`\\\n\t$~eExon\u00e9\u2028\x85\U0001f600"
    return "".join(draw.choice(letters) for _ in range(draw.randrange(9)))


def test_canonical_form_reads_back_equal() -> None:
    for seed in range(300):
        draw = random.Random(seed)
        data = {"k": random_value(draw, 0), "nodes": {"n": random_value(draw, 1)}}
        if "<<" not in str(data):
            assert data_of(canonical(data)) == data, seed


@pytest.mark.parametrize("text", ["", " a", "a ", "1e3", "0x1", ".inf", "-", "a: b", "a #b", "---"])
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert written(text) == f'"{text}"'


def test_random_text_never_crashes() -> None:
    pieces = ["a", "1", ": ", "- ", "\n", " ", "  ", "\t", "[", "]", "{", "}", ",", "&x ", "*x"]
    pieces += ["<<: ", "!!t ", "'", '"', "|", ">", "#", "? ", "---", "...", "%", "\\", "\x00", "~"]
    for seed in range(3000):
        draw = random.Random(seed)
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(25)))
        tree, problems = parse(text, HERE)
        assert tree is None or not problems
        for problem in problems:
            assert render(problem).startswith("g.yaml")
