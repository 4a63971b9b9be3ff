"""What the repository may hold: its top level, the size of its parts, its commands, its version."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sslgraph

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sslgraph"
TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "methods",
    "pyproject.toml",
    "sslgraph",
    "tests",
    "tools",
}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
COMMANDS = (".ci/run", "tools/run", "tools/setup_env", "tools/test")


def git_files() -> dict[str, str]:
    """List the files under version control with their modes, also where another user owns them."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--stage", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    entries = (entry.split("\t") for entry in done.stdout.split("\0") if entry)
    return {path: described.split()[0] for described, path in entries}


def is_code(path: str) -> bool:
    return path.endswith((".py", ".toml")) or path in COMMANDS


def too_long(path: Path) -> Iterator[str]:
    """Describe a file and the functions in it that are longer than they may be."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > LONGEST_FILE:
        yield f"{path.name}: {lines} lines, at most {LONGEST_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                where = f"{path.name}:{node.lineno}: {node.name}"
                yield f"{where} has {length} lines, at most {LONGEST_FUNCTION}"


def test_the_top_level_holds_only_what_belongs_there() -> None:
    top = {path.split("/")[0] for path in git_files()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_methods_hold_no_code() -> None:
    allowed = {".yaml", ".md", ".svg", ".png"}
    found = [f for f in git_files() if f.startswith("methods/") and Path(f).suffix not in allowed]
    assert found == []


def test_code_is_ascii() -> None:
    found = []
    for name in filter(is_code, git_files()):
        for number, line in enumerate((ROOT / name).read_bytes().split(b"\n"), start=1):
            if not line.isascii():
                found.append(f"{name}:{number}")
    assert found == []


def test_files_and_functions_are_short() -> None:
    found = [text for path in sorted(PACKAGE.rglob("*.py")) for text in too_long(path)]
    assert not found, "\n".join(found)


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    body = "    x = 1\n" * LONGEST_FUNCTION
    path.write_text(f"def f():\n{body}" + "\n" * LONGEST_FILE, encoding="utf-8")
    assert list(too_long(path)) == [
        "long.py: 461 lines, at most 400",
        "long.py:1: f has 61 lines, at most 60",
    ]


def test_commands_can_be_executed() -> None:
    modes = git_files()
    assert {name: modes.get(name) for name in COMMANDS} == dict.fromkeys(COMMANDS, "100755")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_valid_bash(name: str) -> None:
    subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", text, flags=re.MULTILINE)
    assert versions[0] == sslgraph.__version__


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    program = (
        "import sys, sslgraph; dir(sslgraph);"
        "heavy = {'torch', 'timm', 'kornia', 'networkx', 'pydantic', 'yaml', 'numpy'};"
        "print(sorted(m for m in sys.modules if m.startswith('sslgraph.') or m in heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_module_hides_a_public_name() -> None:
    modules = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert modules & set(sslgraph.__all__) == set()


@pytest.mark.parametrize("name", sslgraph.__all__)
def test_public_names_can_be_used(name: str) -> None:
    assert getattr(sslgraph, name) is getattr(sslgraph, name)
    assert name in dir(sslgraph)


def test_an_unknown_public_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'sslgraph' has no attribute 'lod'"):
        _ = sslgraph.lod  # type: ignore[attr-defined]
