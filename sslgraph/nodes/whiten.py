"""Whitening: rows whose coordinates are uncorrelated and of equal variance over a batch."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from sslgraph import hashing
from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.losses.base import at_least_float32, exact
from sslgraph.nodes.ranks import rank, world_size
from sslgraph.ports import In, Out
from sslgraph.schedules import Finite

_DRAW = hashing.text_key("whiten")


class Whiten(Node, use="whiten"):
    """Give the rows of each view mean 0 and covariance 1 over parts of a batch (W-MSE, section 3).

    y = L^-1 (x - mean) with L L^T the Cholesky factor of the covariance, unbiased, of the `size`
    rows of a part. Parts are dealt out at random from the samples of all processes, the same in
    every view; several `iterations` deal them out again. With `mix` and `text_key` of
    `sslgraph.hashing` iteration k takes samples in the order of

        mix(text_key("whiten"), text_key(f"{seed}/{node}") & (2^63 - 1), k, position)

    as signed words. Gradient flows through mean and covariance. A covariance without a Cholesky
    factor, as that of equal rows, gives nan: such a step is not taken.

    In evaluation rows stay as they are, since what an image gets must not depend on the others.

    Shapes: x V B D -> y V R D; R = B x iterations, all rows of one iteration after the other.
    """

    x = In("embedding", "V B D")
    position = In("index", "1 B", default="batch.index")
    y = Out("embedding", "V R D")
    gathers = {"x": "grad", "position": "no_grad"}
    prevents = "whitening"
    learns = False
    sample = {"size": 5, "iterations": 2}
    sample_axes = {"B": 10, "D": 3}

    class Config(Node.Config):
        """Settings.

        Attributes:
            size: Rows of a part; more than D, and of any use only with clearly more, such as 2 D.
                All samples of a forward pass are one part if absent.
            iterations: How many times parts are dealt out; more are less noisy.
            eps: Share of the identity in the covariance.
        """

        size: PositiveInt | None = None
        iterations: PositiveInt = 1
        eps: Annotated[Finite, Field(ge=0, lt=1)] = 0.0

    def build(self, D: int) -> None:
        """See that parts have a Cholesky factor and that samples can be cut into them."""
        samples = self.context.samples
        size = self.config.size or samples
        self._key = self.context.key()
        if size and size <= D and not self.config.eps:
            raise SettingError(
                f"{size} rows have no covariance with a Cholesky factor in {D} dimensions",
                path=("size",) if self.config.size else (),
                expected=f"more than {D} rows in a part; papers take {2 * D}",
                help="raise 'size' or train.batch_size, lower the width, or set 'eps'",
            )
        if size and samples % size:
            raise SettingError(
                f"{samples} samples can't be cut into parts of {size}",
                path=("size",),
                expected=f"a multiple of {size} samples in each forward pass",
                got=f"{samples} over all processes",
                help="change train.batch_size, train.accumulate or 'size'",
            )

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """The whitened rows of a batch."""
        iterations = self.config.iterations
        if x.is_meta:  # shapes alone are wanted, whatever the size of the batch
            return x.repeat(1, iterations, 1)
        batch = x.shape[1]
        size = self.config.size or batch
        if batch % size:
            raise ValueError(f"whiten cuts the batch into parts of {size}, got {batch} samples")
        own = slice(rank() * batch // world_size(), (rank() + 1) * batch // world_size())
        with exact(x):
            rows = at_least_float32(x)
            done = [self._dealt(rows, self._order(position[0], k), size) for k in range(iterations)]
        return torch.cat([y[:, own] for y in done], 1)

    def evaluate(self, x: Tensor, position: Tensor) -> Tensor:
        """The rows as they are."""
        return x

    def _order(self, position: Tensor, iteration: int) -> Tensor:
        return hashing.mix(_DRAW, self._key, iteration, position).argsort(stable=True)

    def _dealt(self, x: Tensor, order: Tensor, size: int) -> Tensor:
        parts = x[:, order].unflatten(1, (-1, size))
        return self._whitened(parts).flatten(1, 2)[:, order.argsort()]

    def _whitened(self, parts: Tensor) -> Tensor:
        """Each part whitened on its own: V parts size D."""
        centred = parts - parts.mean(-2, keepdim=True)
        covariance = centred.mT @ centred / (parts.shape[-2] - 1)
        eps = self.config.eps
        if eps:
            one = torch.eye(parts.shape[-1], dtype=parts.dtype, device=parts.device)
            covariance = (1 - eps) * covariance + eps * one
        factor, failed = torch.linalg.cholesky_ex(covariance)  # unlike cholesky, waits for nothing
        y = torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT
        return torch.where(failed[..., None, None] > 0, torch.nan, y)
