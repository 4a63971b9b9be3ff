"""How hard the embedded digits are: raw-pixel kNN by rung, and a small network with labels.

    python tools/bench/digits.py                 # the ladder, kNN only
    python tools/bench/digits.py --supervised    # and the ceiling on the default, about 2 minutes

The figures in the docstring of `sslgraph/data/digits.py` come from here.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sslgraph.data import RUNGS, EmbeddedDigits
from sslgraph.evaluate import knn_accuracy

EPOCHS = 14
BATCH = 128


def tensors(digits: EmbeddedDigits) -> tuple[Tensor, Tensor]:
    labels = torch.tensor([digits.label(index) for index in range(len(digits))])
    return digits.images(range(len(digits))).float() / 255, labels


def ladder(canvas: int) -> None:
    print(f"raw-pixel kNN in percent, {canvas} pixels")
    print("rung    l2 k=1  l2 k=20  cos k=1 cos k=20  img/s")
    for rung, clutter in RUNGS.items():
        began = time.perf_counter()
        train = tensors(EmbeddedDigits("train", canvas=canvas, clutter=clutter))
        rate = len(train[0]) / (time.perf_counter() - began)
        test = tensors(EmbeddedDigits("test", canvas=canvas, clutter=clutter))
        known, asked = train[0].flatten(1), test[0].flatten(1)
        row = [
            100 * knn_accuracy(known, train[1], asked, test[1], k=k, metric=metric)
            for metric in ("l2", "cosine")
            for k in (1, 20)
        ]
        print(f"{rung:6}" + "".join(f"{value:9.1f}" for value in row) + f"{rate:7.0f}", flush=True)


def small_network() -> nn.Sequential:
    widths = [3, 32, 64, 96, 160]
    layers: list[nn.Module] = []
    for stage, (inner, outer) in enumerate(pairwise(widths)):
        stride = 2 if stage else 1
        convolution = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def ceiling(canvas: int) -> None:
    """Train with labels on shifted pictures, print accuracy on digits never seen."""
    torch.manual_seed(0)
    images, labels = tensors(EmbeddedDigits("train", canvas=canvas))
    asked, truth = tensors(EmbeddedDigits("test", canvas=canvas))
    network = small_network()
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {EPOCHS} epochs")
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * steps)
    began = time.process_time()
    for epoch in range(EPOCHS):
        network.train()
        for chosen in torch.randperm(len(images))[: steps * BATCH].view(steps, BATCH):
            down, right = torch.randint(-3, 4, (2,)).tolist()
            shifted = images[chosen].roll((down, right), (2, 3))
            loss = cross_entropy(network(4 * (shifted - 0.5)), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            found = network(4 * (asked - 0.5)).argmax(1)
        accuracy = 100 * (found == truth).double().mean().item()
        spent = time.process_time() - began
        print(f"epoch {epoch + 1:2}  {spent:4.0f} CPU s  test {accuracy:.1f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--canvas", type=int, default=32)
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ladder(arguments.canvas)
    if arguments.supervised:
        ceiling(arguments.canvas)


if __name__ == "__main__":
    main()
