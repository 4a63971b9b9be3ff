"""What the recipes of Barlow Twins and VICReg have in common, and what their tests do with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.method import Method
from sslgraph.train.rates import Horizon
from sslgraph.train.step import Updater
from tests.methods import joint
from tests.methods.barlow_twins_by_hand import recipe_rate
from tests.methods.byol_by_hand import make_views
from tests.methods.joint import BATCH, require_bare_vectors, require_rates

SMALL: dict[str, Any] = {
    "vars.arch": "test_resnet",
    "vars.size": 24,
    "vars.dim": 24,
    "train.batch_size": BATCH,
    "train.lr.warmup": "2 steps",
    "train.lr.end": 0.2 * BATCH / 256 * 0.001,
}
EPOCH = 625  # steps of an epoch of ImageNet with batches of 2048
RUN = Horizon(1000 * EPOCH, EPOCH)


def make_ready(hand: Any, method: Method, parts: Mapping[str, nn.Module]) -> None:
    """Give a small method by hand the weights of a graph, and the run of the tests."""
    joint.share_weights(method, parts)
    hand.double().train()
    hand.begin(joint.RUN.total_steps, 2)


def require_views_of_byol(method: Method, images: Tensor, seed: int) -> None:
    """See that both views are made as BYOL's are."""
    views = torch.stack(make_views(images.float() / 255, seed, "views", 24))
    joint.require_views(method, images, views)


def require_published_recipe(name: str) -> Updater:
    """1000 epochs of 2048 images: 1.6 after ten of them, a thousandth of it at the end.

    The rate is that of `adjust_learning_rate` in the released `main.py` of Barlow Twins, which
    `main_vicreg.py` repeats; LARS leaves alone what has one axis.

    Returns:
        What would do the steps of that run, with a small network.
    """
    graph = sslgraph.load(name, set={"vars.arch": "test_resnet", "vars.dim": 8})
    steps = (0, 1000, 10 * EPOCH, 100_000, RUN.total_steps - 1)
    expected = {n: 0.2 * recipe_rate(n, RUN.total_steps, 10 * EPOCH, 2048) for n in steps}
    assert expected[10 * EPOCH] == 1.6
    require_rates(graph, RUN, expected)
    spec = graph.train
    assert (spec.optimizer, spec.form, spec.batch_size) == ("lars", "post", 2048)
    assert (spec.epochs, spec.weight_decay) == (1000, 1e-6)
    updater = joint.updater_of(sslgraph.compile(graph), 0, RUN)
    require_bare_vectors(updater)
    return updater


def require_published_sizes(name: str, head: str, expected: int) -> None:
    """See that a ResNet-50 and the head on its 2048 features have as many numbers as published."""
    parameters = joint.sizes_of(name).parameters
    assert parameters["encoder"] == 23_508_032
    assert parameters[head] == expected
    assert parameters["loss"] == 0
