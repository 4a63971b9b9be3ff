"""The layers of the package: who may import whom, read from the source without running it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sslgraph"

# From the bottom to the top. A module may import from its own row and from the rows before it. A
# name stands for the module or the folder of that name; the longest name that fits a module places
# it. `registry` imports node types by names from a table, which no reading of the source can see:
# that is the one way upwards, and it is meant.
LAYERS = (
    ("command", "errors", "files", "scalars"),
    ("ports", "axes", "chain", "hashing", "canonical"),
    ("lists", "limits", "source", "validation", "schedules"),
    ("tree", "syntax", "reading"),
    ("merge", "overrides", "variables"),
    ("train_spec",),
    ("spec",),
    ("building", "loading", "registry"),
    ("checks",),
    ("plan",),
    ("comparing",),
    ("drawing",),
    ("nodes",),
    ("walk", "saved", "weights", "make", "check_gradients", "check_sizes"),
    ("nodes.runs", "nodes.frozen"),
    ("checking", "drawn"),
    ("emit", "clock"),
    ("notes",),
    ("method",),
    ("data",),
    ("evaluate",),
    ("train",),
    ("testing", "proving", "describe", "schema"),
    ("cli", "pytest_plugin"),
    ("__init__", "__main__"),
)
WITHOUT_TORCH = LAYERS[: LAYERS.index(("nodes",))]
# What the package's top holds itself, so that taking it imports nothing.
CONSTANTS = {"sslgraph.__version__"}
HEAVY = {"torch", "torchvision", "timm", "kornia", "safetensors"}
# Stands low because it needs nothing of ours, but computes on tensors.
TORCH_LEAVES = {"hashing"}


@dataclass(frozen=True)
class Import:
    """One imported name, as written at `file:line`, and the module of ours it leads to, if any."""

    where: str
    name: str
    target: str | None


def row_of(module: str) -> int | None:
    """Place a module, named without the package: `checks.wires`, `__init__`."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for row, names in enumerate(LAYERS):
            if prefix in names:
                return row
    return None


def module_files(package: Path) -> dict[str, Path]:
    """Find every module, named without the package; a folder's `__init__` has the folder's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = list(path.relative_to(package).with_suffix("").parts)
        if len(parts) > 1 and parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def imported_names(
    tree: ast.AST, package: str, inside: tuple[str, ...]
) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of each import, also in functions and under TYPE_CHECKING.

    `inside` is the dotted path of the folder that holds the module, for relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            folder = (package, *inside)
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"


def resolve(name: str, package: str, modules: dict[str, Path]) -> str | None:
    """Name the module of ours that an imported dotted name leads to, or None for other packages."""
    parts = name.split(".")
    if parts[0] != package or name in CONSTANTS:
        return None
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[1 : length + 1])
        if module in modules:
            return module
    return "__init__"


def imports_of(package: Path) -> dict[str, list[Import]]:
    """Read every import of every module of a package."""
    modules = module_files(package)
    found: dict[str, list[Import]] = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = path.relative_to(package).parent.parts
        shown = path.relative_to(package.parent)
        found[module] = [
            Import(f"{shown}:{line}", name, resolve(name, package.name, modules))
            for line, name in imported_names(tree, package.name, inside)
        ]
    return found


def upward_imports(package: Path) -> list[str]:
    """Describe each import from a row above the importing module's own."""
    found = []
    for module, imports in imports_of(package).items():
        row = row_of(module)
        for item in imports:
            target = None if item.target is None else row_of(item.target)
            if row is not None and target is not None and target > row:
                found.append(f"{item.where}: {module} imports {item.name}, which stands above it")
    return found


def ways_to_torch(package: Path) -> list[str]:
    """Describe each import by which a module of the lower layers would load PyTorch."""
    imports = imports_of(package)
    loads = {m for m, items in imports.items() if any(is_heavy(i.name) for i in items)}
    grown = True
    while grown:
        more = {m for m, items in imports.items() if any(i.target in loads for i in items)}
        grown = not more <= loads
        loads |= more
    names = {name for row in WITHOUT_TORCH for name in row} - TORCH_LEAVES
    return [
        f"{item.where}: {module} imports {item.name}, which loads PyTorch"
        for module, items in imports.items()
        if module.split(".")[0] in names
        for item in items
        if is_heavy(item.name) or item.target in loads
    ]


def is_heavy(name: str) -> bool:
    return name.split(".")[0] in HEAVY


def test_every_module_has_a_layer() -> None:
    missing = [m for m in module_files(PACKAGE) if row_of(m) is None]
    assert not missing, f"place these in LAYERS of {Path(__file__).name}: {missing}"


def test_no_module_imports_from_a_layer_above() -> None:
    found = upward_imports(PACKAGE)
    assert not found, "\n".join(found)


def test_lower_layers_do_not_load_torch() -> None:
    found = ways_to_torch(PACKAGE)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "text", "line"),
    [
        ("plan", "import json\nimport sslgraph.method\n", 2),
        ("plan", "from sslgraph import method\n", 1),
        ("plan", "from sslgraph.method import Method\n", 1),
        ("plan", "def f() -> None:\n    from sslgraph.nodes.base import Node\n", 2),
        ("plan", "if TYPE_CHECKING:\n    from sslgraph.nodes import base\n", 2),
        ("plan", "from sslgraph import load\n", 1),
        ("plan", "from .method import Method\n", 1),
        ("plan", "from . import method\n", 1),
        ("checks/wires", "from ..nodes.base import Node\n", 1),
        ("nodes/base", "from sslgraph import cli\n", 1),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, module: str, text: str, line: int) -> None:
    package = toy_package(tmp_path, {module: text})
    assert [found.split(": ")[0] for found in upward_imports(package)] == [
        f"sslgraph/{module}.py:{line}"
    ]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("plan", "from sslgraph.errors import Problem\n"),
        ("plan", "from sslgraph import __version__\n"),
        ("checks/wires", "from . import settings\nfrom ..ports import In\n"),
        ("cli", "def f() -> None:\n    from sslgraph.nodes import base\n"),
    ],
)
def test_an_import_downwards_or_sideways_is_allowed(tmp_path: Path, module: str, text: str) -> None:
    assert upward_imports(toy_package(tmp_path, {module: text})) == []


@pytest.mark.parametrize(
    "text",
    ["import torch.nn\n", "def f() -> None:\n    from timm import create_model\n"],
)
def test_a_way_to_torch_is_found(tmp_path: Path, text: str) -> None:
    package = toy_package(tmp_path, {"errors": text, "plan": "from sslgraph import errors\n"})
    assert [found.split(":")[0] for found in ways_to_torch(package)] == [
        "sslgraph/errors.py",
        "sslgraph/plan.py",
    ]


def test_a_file_without_a_layer_is_found(tmp_path: Path) -> None:
    package = toy_package(tmp_path, {"helpers": ""})
    assert [m for m in module_files(package) if row_of(m) is None] == ["helpers"]


def toy_package(folder: Path, texts: dict[str, str]) -> Path:
    """Write a package with the real module names and empty files, but for those given."""
    package = folder / "sslgraph"
    names = ["__init__", "errors", "ports", "plan", "method", "cli"]
    names += ["checks/__init__", "checks/settings", "checks/wires", "nodes/__init__", "nodes/base"]
    for name in dict.fromkeys([*names, *texts]):
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.get(name, ""), encoding="utf-8")
    return package


def strings_with_places(package: Path) -> Iterator[tuple[str, str]]:
    """Yield `file:line` and value of every string in the code of a package."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(package.parent)}:{node.lineno}", node.value


def node_type_names(package: Path) -> set[str]:
    """Collect the names that node classes declare: `class Vicreg(Node, use="vicreg")`."""
    return {
        keyword.value.value
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for keyword in node.keywords
        if keyword.arg == "use"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
    }


def setting_words(package: Path) -> set[str]:
    """Collect the words that settings may have: `Literal["imagenet", "swav"]` of statistics."""
    return {
        word.value
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Literal"
        for word in ast.walk(node.slice)
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    }


def method_mentions(package: Path, methods: set[str]) -> list[str]:
    """Find strings that are the name of a method; a node type or a setting may have it too."""
    names = methods - node_type_names(package) - setting_words(package)
    return [
        f"{where}: {text!r} is the name of a method"
        for where, text in strings_with_places(package)
        if text in names or text in {f"{name}.yaml" for name in names}
    ]


def test_no_code_names_a_method() -> None:
    methods = {path.stem for path in (ROOT / "methods").glob("*.yaml")}
    found = method_mentions(PACKAGE, methods)
    assert not found, "\n".join(found)


def test_a_method_named_in_code_is_found(tmp_path: Path) -> None:
    nodes = 'class Loss(Node, use="vicreg"):\n    """As in byol."""\n'
    package = toy_package(
        tmp_path, {"cli": '\nif name == "byol":\n    pass\n', "nodes/base": nodes}
    )
    assert method_mentions(package, {"byol", "vicreg"}) == [
        "sslgraph/cli.py:2: 'byol' is the name of a method"
    ]
