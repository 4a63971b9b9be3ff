"""Running the command inside the test process, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sslgraph.cli import main

Command = Callable[..., Result]

TOY = """\
sslgraph: 1
name: toy
nodes:
  views: {use: augment, in: batch.image, views: 2, size: 24, ops: [{crop: [0.3, 1]}]}
  encoder: {use: encoder, in: views, arch: test_resnet}
  projector: {use: projector, in: encoder.embedding, hidden: [16], out: 8}
  loss: {use: nt_xent, in: projector}
minimize: {loss: 1.0}
outputs: {embedding: encoder.embedding}
train: {steps: 2, batch_size: 8}
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`command("check", "toy.yaml")`, run where `toy.yaml` lies, without a terminal."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="sslgraph")

    return run
