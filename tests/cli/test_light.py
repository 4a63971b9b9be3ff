"""Commands that only read files load neither PyTorch nor networkx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = "{'torch', 'networkx', 'timm', 'kornia', 'numpy'}"
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print("heavy:", sorted({HEAVY} & set(sys.modules)), file=sys.stderr))
from sslgraph.cli import main
main(prog_name="sslgraph")
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["list"], 0),
        (["nodes"], 0),
        (["show", "simclr", "--preset", "tiny", "--set", "vars.dim=16"], 0),
        (["new", "mine", "--from", "simclr"], 0),
        (["new", "mine", "--from", "simclr", "--extends"], 0),
        (["check", "broken.yaml"], 1),
        (["check", "missing.yaml"], 1),
        (["run", "broken.yaml"], 1),
        (["draw", "broken.yaml"], 1),
        (["diff", "simclr", "broken.yaml"], 2),
        (["run", "simclr", "--preset", "no"], 1),
        (["chek"], 2),
    ],
)
def test_no_heavy_import(tmp_path: Path, arguments: list[str], code: int) -> None:
    (tmp_path / "broken.yaml").write_text("sslgraph: 1\nnodes: {a: [1,\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy: []"
