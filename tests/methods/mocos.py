"""What the recipes of MoCo v1 and v2 have in common."""

from __future__ import annotations

from collections.abc import Callable

import sslgraph
from sslgraph.train.rates import Horizon
from tests.methods.joint import require_rates, sizes_of

EPOCH = 5004  # steps of an epoch of ImageNet with batches of 256


def require_published_sizes(name: str, head: int) -> None:
    """See that a ResNet-50, its head, their slow copy and the queue are as large as published."""
    sizes = sizes_of(name)
    assert sizes.parameters["encoder"] == 23_508_032
    assert sizes.parameters["projector"] == head
    assert sizes.parameters["key"] == 23_508_032 + head
    assert sizes.shapes["queue", "items"] == (1, 65536, 128)


def require_published_recipe(name: str, rate: Callable[[int], float]) -> None:
    """200 epochs of 256 images as in the released `main_moco.py`, with decay on every parameter.

    Args:
        name: The method.
        rate: The learning rate of an epoch, which all of its steps have.
    """
    graph = sslgraph.load(name)
    run = Horizon.of(graph.train, 1281167)
    assert run == Horizon(200 * EPOCH, EPOCH)
    for epoch in (0, 50, 100, 119, 120, 159, 160, 199):
        first, last = epoch * EPOCH, epoch * EPOCH + EPOCH - 1
        require_rates(graph, run, {first: rate(epoch), last: rate(epoch)})
    spec = graph.train
    assert (spec.optimizer, spec.weight_decay, spec.no_decay) == ("sgd", 1e-4, [])
    assert (spec.momentum, spec.batch_size) == (0.9, 256)
    assert graph.nodes["key"].settings["momentum"] == 0.999
