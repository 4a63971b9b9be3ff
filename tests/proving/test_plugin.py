"""What users write: a test file of three lines, with one sound and one broken graph and node."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from sslgraph.testing import prove, small
from tests import toys
from tests.conftest import ROOT
from tests.proving.graphs import with_loss

pytest_plugins = ["pytester"]

NODES = '''
import torch
import sslgraph
from sslgraph.nodes.losses.base import Loss


class Gain(sslgraph.Node, use="my_gain"):
    """Twice the input."""

    x = sslgraph.In("embedding", "... D")
    y = sslgraph.Out("embedding", "... D")

    def forward(self, x):
        return 2 * x


class Noisy(Gain, use="my_noise"):
    """The input and noise of the global generator."""

    def forward(self, x):
        return x + torch.randn_like(x)


class Total(Loss, use="my_total"):
    """Weighs images by their places."""

    x = sslgraph.In("embedding", "V B D")

    def forward(self, x):
        return (x.square().sum((0, 2)) * torch.arange(x.shape[1], device=x.device)).mean()
'''

GRAPH = """
sslgraph: 1
nodes:
  views: {use: augment, in: batch.image, views: 2, size: 32, ops: []}
  encoder: {use: encoder, in: views, arch: test_resnet}
  gain: {use: my_gain, in: encoder.embedding}
  loss: {use: LOSS, in: gain}
minimize: {loss: 1.0}
"""

TESTS = """
from sslgraph.testing import node_tests, proof
some = ["stopped_gradients", "image_order", "view_order", "processes"]
test_sound = proof("sound.yaml", nodes="my_nodes.py", properties=some)
test_broken = proof("broken.yaml", nodes="my_nodes.py", properties=some)
test_gain = node_tests("my_gain", nodes="my_nodes.py")
test_noise = node_tests("my_noise", nodes="my_nodes.py")
"""


def test_a_file_of_three_lines_proves_a_method_and_a_node(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makefile(".yaml", sound=GRAPH.replace("LOSS", "nt_xent"))
    pytester.makefile(".yaml", broken=GRAPH.replace("LOSS", "my_total"))
    pytester.makepyfile(my_nodes=NODES, test_mine=TESTS)
    # within this process pytester would forget the modules that the inner run imports first
    some = ("-k", "sound or broken or randomness or writing")
    result = pytester.runpytest_subprocess("-p", "sslgraph.pytest_plugin", "-rs", "-vv", *some)
    lines = "\n".join(result.outlines)
    for passed in ("sound[image_order]", "sound[processes]", "gain[randomness]"):
        assert re.search(rf"test_{re.escape(passed)} .*PASSED", lines), passed
    for failed in ("broken[image_order]", "broken[processes]", "noise[randomness]"):
        assert re.search(rf"test_{re.escape(failed)} .*FAILED", lines), failed
    result.stdout.fnmatch_lines(
        ["*image_order: failed: permuting the images changes loss from * (broken.yaml:*)"]
    )
    result.stdout.fnmatch_lines(["*does not apply: no node stops a gradient, keeps a memory*"])


def test_the_plugin_loads_nothing_heavy() -> None:
    code = "import sys, sslgraph.pytest_plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_proof_inside_a_test_asserts() -> None:
    with pytest.raises(AssertionError) as caught:
        prove(with_loss("broken_by_place"), ["image_order", "randomness"])
    first, second = str(caught.value).splitlines()
    assert first == "graph is not wired as it says"
    assert second.startswith("image_order: failed: permuting the images changes loss from")
    (result,) = prove(with_loss("nt_xent"), ["image_order"])
    assert result.status == "passed"


def test_the_small_preset_is_taken_where_there_is_one() -> None:
    assert small("simclr").preset == "tiny"
    assert small("simclr", set={"train.batch_size": 4}).train.batch_size == 4
    nodes = {"sslgraph": 1, "nodes": toys.TWO_VIEWS, "minimize": {"loss": 1.0}}
    assert small(nodes).preset is None
