"""Node types by name: families on demand, own files, words for what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sslgraph import registry

OWN = '''
from sslgraph import In, Node, Out


class Double(Node, use="own_double"):
    """Twice its input."""

    x = In("T", "... D")
    y = Out("T", "... D")

    def forward(self, x):
        return 2 * x
'''


def test_shipped_types() -> None:
    for use, module in registry.SHIPPED.items():
        assert registry.find(use).family == module
        assert registry.find(use).use == use
    assert set(registry.SHIPPED) <= set(registry.names())
    with pytest.raises(registry.UnknownNodeTypeError):
        registry.find("nobody")


def test_only_the_families_of_a_file_are_imported() -> None:
    code = (
        "import sys; from sslgraph import registry; registry.names();"
        "assert 'torch' not in sys.modules;"
        "registry.find('stop_grad'); assert 'sslgraph.nodes.encoders' not in sys.modules;"
        "assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_own_node_types(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    assert registry.load_file(file) == ["own_double"]
    assert registry.load_file(file) == ["own_double"]  # once more is no second declaration
    assert registry.find("own_double").summary == "Twice its input."
    from sslgraph.testing import check_node

    assert dict(check_node("own_double"))["gradients"] == "holds"


def refused(path: Path) -> str:
    with pytest.raises(registry.NodeFileError) as caught:
        registry.load_file(path)
    return str(caught.value)


def test_files_that_declare_nothing_sound(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    assert refused(file) == f"no file {file}: give the Python file that declares your node types"
    file.write_text("x = 1\n")
    assert refused(file) == (
        f"{file} declares no node type: "
        'write a class such as `class MyNode(sslgraph.Node, use="my_node")`'
    )
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n")
    assert refused(broken).startswith(f"{broken}:1: SyntaxError: ")
    failing = tmp_path / "failing.py"
    failing.write_text(
        "\n" + OWN.replace("own_double", "own_failing") + "\nraise RuntimeError('no')\n"
    )
    assert refused(failing).endswith("RuntimeError: no")
    assert f"{failing}:15:" in refused(failing)
    assert "own_failing" not in registry.names()
    odd = tmp_path / "odd.py"
    odd.write_text(OWN.replace("def forward(self, x)", "def forward(self, z)"))
    text = "TypeError: Double.forward takes ['z'] but the class declares inputs ['x']"
    assert refused(odd) == f"{odd}:5: {text}"
