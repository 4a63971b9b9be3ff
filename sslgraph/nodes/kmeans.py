"""A memory of the whole data set and its clusters, renewed once an epoch."""

from __future__ import annotations

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional

from sslgraph import hashing
from sslgraph.nodes.base import Node, SettingError
from sslgraph.nodes.ranks import gather, rank, sum_over_ranks, world_size
from sslgraph.ports import In, Out
from sslgraph.schedules import fault

_UNKNOWN = -1
_SCORES = 2**26
"""Scores of rows against centroids that are held at a time: 256 MiB."""


class KmeansBank(Node, use="kmeans_bank"):
    """Keep every image's embedding and cluster them each epoch (DeepCluster-v2).

    During an epoch the embeddings of each batch are stored under the numbers of their images, at
    unit length; that costs no pass of its own. At its end they are clustered by spherical k-means:
    the start is `count` different images, drawn anew each epoch; `iterations` times each row goes
    to the centroid of the largest dot product, and each centroid to the mean direction of its rows
    (one without rows stays); then labels are given once more. Labels and centroids stay as they are
    over the epoch that follows. A label is -1, unknown, for images that the epoch before did not
    show, so for all in the first epoch, and in evaluation.

    Every process holds all rows; each clusters a share of them.

    Shapes: x 1 B D, index 1 B -> label 1 B, centroids 1 count D, which are zeros at first.
    """

    x = In("embedding", "1 B D", at="write")
    index = In("index", "1 B", at="both", default="batch.sample")
    label = Out("label", "1 B", main=True)
    centroids = Out("embedding", "1 count D")
    writes = "batch"
    commits = "epoch"
    stops_gradient = True
    sample = {"count": 4, "size": 128}

    class Config(Node.Config):
        """Settings.

        Attributes:
            count: Number of clusters.
            size: Images of the data set: their numbers are below this.
            iterations: Of k-means.
        """

        count: PositiveInt
        size: PositiveInt
        iterations: PositiveInt = 10

        @model_validator(mode="after")
        def _enough(self) -> KmeansBank.Config:
            if self.count > self.size:
                raise fault(
                    f"{self.count} clusters of {self.size} images",
                    expected="'count' of at most 'size'",
                    help="lower 'count'",
                )
            return self

    rows: Tensor
    shown: Tensor
    labels: Tensor
    means: Tensor
    epochs: Tensor

    def build(self, D: int) -> None:
        """Make room for `size` rows of width D."""
        count, size = self.config.count, self.config.size
        self.register_buffer("rows", torch.zeros(size, D))
        self.register_buffer("shown", torch.zeros(size, dtype=torch.uint8))
        self.register_buffer("labels", torch.full((size,), _UNKNOWN))
        self.register_buffer("means", torch.zeros(count, D))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def check_data(self, images: int) -> None:
        """See that the bank has a row for each image, and that there are enough to cluster.

        Raises:
            SettingError: It has not.
        """
        if images > self.config.size:
            raise SettingError(
                f"the data set has {images} images, the bank has room for {self.config.size}",
                path=("size",),
                expected=f"at least {images}",
                got=str(self.config.size),
                help=f"set 'size: {images}'",
            )
        if images < self.config.count:
            raise SettingError(
                f"{images} images can't make {self.config.count} clusters",
                path=("count",),
                expected=f"at most {images}",
                got=str(self.config.count),
                help="lower 'count', or train on more images",
            )

    def forward(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of these images and all centroids, from the end of the last epoch."""
        self._check(index)
        made: tuple[Tensor, Tensor] = self.Outputs(
            label=self.labels[index], centroids=self.means.clone().unsqueeze(0)
        )
        return made

    def evaluate(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """No labels: the images of an evaluation may be those of another data set."""
        made: tuple[Tensor, Tensor] = self.Outputs(
            label=torch.full_like(index, _UNKNOWN), centroids=self.means.clone().unsqueeze(0)
        )
        return made

    def write(self, x: Tensor, index: Tensor) -> None:
        """Store the embeddings of a batch, of all processes."""
        self._check(index)
        places = gather(index[0], 0, grad=False)
        rows = gather(x[0].detach().to(self.rows.dtype), 0, grad=False)
        self.rows.index_copy_(0, places, functional.normalize(rows, dim=-1))
        self.shown[places] = 1

    def commit(self) -> None:
        """Cluster what the epoch has shown, and forget that it was shown.

        Raises:
            ValueError: Fewer images than clusters were shown.
        """
        known = self.shown.nonzero().squeeze(1)
        if len(known) < self.config.count:
            raise ValueError(
                f"{self.context.name}: an epoch showed {len(known)} images, too few for "
                f"{self.config.count} clusters: lower its 'count', or show more images an epoch"
            )
        order = hashing.mix(self.context.key(), int(self.epochs), known).argsort(stable=True)
        start = self.rows[known[order[: self.config.count]]]
        labels, means = spherical_kmeans(self.rows[known], start, self.config.iterations)
        self.labels.fill_(_UNKNOWN)
        self.labels[known] = labels
        self.means.copy_(means)
        self.shown.zero_()
        self.epochs.add_(1)

    def _check(self, index: Tensor) -> None:
        """Numbers of images are below the size; an accelerator finds that out by itself."""
        if index.device.type != "cpu" or torch.compiler.is_compiling() or not index.numel():
            return
        largest, smallest = int(index.max()), int(index.min())
        if largest >= self.config.size or smallest < 0:
            wrong = largest if smallest >= 0 else smallest
            raise ValueError(
                f"{self.context.name}: image number {wrong} is not in a bank of "
                f"{self.config.size} images: set its 'size' to that of the data set, and plug "
                "numbers of images, batch.sample, not positions in the run"
            )


def spherical_kmeans(rows: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """k-means on the unit sphere; each process works on a share of the rows.

    Args:
        rows: n x D, of unit length, equal in all processes.
        centroids: K x D, where to start.
        iterations: How often centroids move.

    Returns:
        The centroid of each row, n, and the centroids, K x D, of unit length.
    """
    mine = torch.arange(rank(), len(rows), world_size(), device=rows.device)
    share = rows[mine]
    for _ in range(iterations):
        sums = sum_over_ranks(_sums(share, centroids))
        means = functional.normalize(sums[:, :-1], dim=-1)
        centroids = torch.where(sums[:, -1:] > 0, means, centroids)
    labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    labels[mine] = torch.cat([_nearest(part, centroids) for part in _parts(share, centroids)])
    return sum_over_ranks(labels), centroids


def _parts(rows: Tensor, centroids: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = rows.split(max(1, _SCORES // len(centroids)))
    return parts


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """The centroid of the largest dot product."""
    return (rows @ centroids.T).argmax(1)


def _sums(rows: Tensor, centroids: Tensor) -> Tensor:
    """Sum and number of the rows of each centroid, K x (D + 1).

    As a matrix product: sums by index are taken in any order on an accelerator.
    """
    sums = torch.zeros(len(centroids), rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
    for part in _parts(rows, centroids):
        members = functional.one_hot(_nearest(part, centroids), len(centroids)).to(rows.dtype)
        sums += members.T @ torch.cat([part, torch.ones_like(part[:, :1])], 1)
    return sums
