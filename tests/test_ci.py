"""The script that a change must pass: what it runs, what it says, and that it cleans up."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Stands for the set-up: an environment of scripts that note their call and fail where told to.
SETUP = """#!/usr/bin/env bash
[ "$CI" = true ] || exit 9
mkdir -p "$SSLGRAPH_VENV/bin"
touch "$SSLGRAPH_VENV/large"
for name in ruff mypy python; do
    printf '#!/usr/bin/env bash\\necho "called %s $*"\\n[ "$BROKEN" != %s ]\\n' $name $name \\
        >"$SSLGRAPH_VENV/bin/$name"
    chmod +x "$SSLGRAPH_VENV/bin/$name"
done
[ "$BROKEN" != install ]
"""
LINT = ["called ruff check .", "called ruff format --check .", "called mypy "]
TESTS = ["called python -m pytest -n auto --maxprocesses 4 --dist loadfile -x"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real scripts and an instant set-up, at a path with a space."""
    copy = tmp_path / "a checkout"
    (copy / "tools").mkdir(parents=True)
    (copy / ".ci").mkdir()
    (copy / "tools" / "setup_env").write_text(SETUP, encoding="utf-8")
    (copy / "tools" / "setup_env").chmod(0o755)
    shutil.copy(ROOT / "tools" / "test", copy / "tools")
    shutil.copy(ROOT / ".ci" / "run", copy / ".ci")
    return copy


@pytest.mark.parametrize(
    ("broken", "called", "ending"),
    [
        ("", LINT + TESTS, "== passed"),
        ("ruff", LINT[:1] + TESTS, "== failed: lint and types"),
        ("mypy", LINT + TESTS, "== failed: lint and types"),
        ("python", LINT + TESTS, "== failed: tests"),
        ("install", [], r"== install: \d+:\d\d of 5:00   FAILED \(exit code 1\)"),
    ],
)
def test_every_phase_counts_and_the_environment_is_removed(
    checkout: Path, broken: str, called: list[str], ending: str
) -> None:
    done = subprocess.run(
        [checkout / ".ci" / "run", "-x"],
        cwd=checkout.parent,
        env={**os.environ, "BROKEN": broken},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("called")] == called
    assert re.fullmatch(ending, lines[-1])
    assert done.returncode == (1 if broken else 0)
    assert sorted(path.name for path in checkout.iterdir()) == [".ci", "tools"]
