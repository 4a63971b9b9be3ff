"""What the executor costs: a graph against the same method written by hand, in alternating pairs.

    python tools/bench/executor.py [--pairs 200] [--batch 64] [--threads 1]

Two figures:

1. Time of a training step (views, forward, backward) of the compiled graph over that of a plain
module
   on the same weights, pair by pair, order drawn at random; the median of the ratios with a
   bootstrap interval.
2. Time of the emitted code per node when every node is replaced by an identity.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import sslgraph
from sslgraph.emit import emit
from sslgraph.method import Method
from tests.methods.simclr_by_hand import SimCLR

RESAMPLES = 2000


class Constant(nn.Module):
    """Gives what a node gave once."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, *inputs: object) -> object:
        return self.value


def small_method(arch: str) -> Method:
    """SimCLR's tiny preset with another encoder."""
    changes = {"vars.arch": arch, "nodes.encoder.args": None}
    return sslgraph.compile(sslgraph.load("simclr", preset="tiny", set=changes))


def by_hand(method: Method) -> SimCLR:
    """The same method as straight-line code, with the graph's weights."""
    layers = method.nodes["projector"].get_submodule("layers")
    first = layers.get_submodule("0")
    assert isinstance(first, nn.Linear)
    arch = method.nodes["encoder"].config.arch
    out = method.nodes["projector"].config.out
    hand = SimCLR(
        arch, first.in_features, first.out_features, out, method.nodes["loss"].config.temperature
    )
    hand.encoder.load_state_dict(method.nodes["encoder"].get_submodule("model").state_dict())
    hand.projector.load_state_dict(layers.state_dict())
    return hand.train()


def seconds(step: Callable[[], Tensor], module: nn.Module) -> float:
    module.zero_grad()
    start = time.perf_counter()
    step().backward()
    return time.perf_counter() - start


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def compare(pairs: int, batch: int) -> None:
    method = small_method("resnet10t")
    hand = by_hand(method)
    side = method.plan.canvas()
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    data = {"image": images, "index": torch.arange(batch)}
    views = method.nodes["views"]

    def graph_step() -> Tensor:
        loss: Tensor = method(data).loss
        return loss

    def hand_step() -> Tensor:
        made = views((images.float() / 255)[None], data["index"][None])
        loss: Tensor = hand(made.flatten(0, 1))
        return loss

    for _ in range(3):
        seconds(graph_step, method)
        seconds(hand_step, hand)
        method.after_step()
    order = random.Random(1)
    ratios, ours, theirs = [], [], []
    for _ in range(pairs):
        first = order.random() < 0.5
        if first:
            ours.append(seconds(graph_step, method))
        theirs.append(seconds(hand_step, hand))
        if not first:
            ours.append(seconds(graph_step, method))
        method.after_step()
        ratios.append(ours[-1] / theirs[-1])
    low, high = interval(ratios)
    print(
        f"step of batch {batch}: graph {statistics.median(ours) * 1e3:.1f} ms, by hand "
        f"{statistics.median(theirs) * 1e3:.1f} ms; median ratio of {pairs} pairs "
        f"{statistics.median(ratios):.4f}, 95 % interval {low:.4f} to {high:.4f}"
    )


def per_node(rounds: int = 2000) -> None:
    method = small_method("test_resnet")
    batch = torch.rand(1, 4, 3, 37, 37), torch.arange(4)[None]
    source = emit(method.plan, (), [method.plan.wire("loss")])
    forward = source.function()
    kept = {}
    for name, node in method.nodes.items():
        node.register_forward_hook(lambda _, __, value, name=name: kept.update({name: value}))
    forward(method, *batch)
    for name, value in kept.items():
        method.nodes._modules[name] = Constant(value)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        forward(method, *batch)
        times.append(time.perf_counter() - start)
    each = statistics.median(times) / len(kept) * 1e6
    print(f"emitted code with identities for nodes: {each:.2f} us a node ({len(kept)} nodes)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    per_node()
    compare(options.pairs, options.batch)


if __name__ == "__main__":
    main()
