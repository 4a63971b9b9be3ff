"""Weighted nearest-neighbour classification on frozen features.

Wu, Xiong, Yu, Lin: "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
CVPR 2018, section 3.4: each of the k nearest training images votes for its label with weight
exp(similarity / temperature). It needs no training and has nothing to tune, so it ranks encoders
while they train.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

Metric = Literal["cosine", "l2"]

_CHUNK = 1024


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    metric: Metric = "cosine",
) -> float:
    """Share of test images whose label the vote finds, in [0, 1].

    Args:
        train_features: N D, any float type; compared as float32.
        train_labels: int64 N, from 0.
        test_features: M D.
        test_labels: int64 M.
        k: Number of voters; all training images where there are fewer.
        temperature: Of the weights; `cosine` only.
        metric: `cosine`, or `l2` where each of the k nearest has one vote.

    Raises:
        ValueError: Shapes that don't fit each other, no images, k or temperature not positive, or
            features that are not finite.
    """
    _check(train_features, train_labels, test_features, test_labels)
    if k < 1 or temperature <= 0:
        raise ValueError(f"k and temperature are positive, got {k} and {temperature}")
    predicted = predict(
        train_features, train_labels, test_features, k=k, temperature=temperature, metric=metric
    )
    return (predicted == test_labels).double().mean().item()


@torch.no_grad()
def predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    k: int,
    temperature: float,
    metric: Metric,
) -> Tensor:
    """Labels by vote, int64 M.

    Of equally near images the first in order votes; of equal votes the smallest label wins.
    """
    known, asked = train_features.float(), test_features.float()
    if metric == "cosine":
        known, asked = normalize(known, dim=1), normalize(asked, dim=1)
    voters = min(k, len(known))
    classes = int(train_labels.max()) + 1
    labels = []
    for chunk in torch.split(asked, _CHUNK):
        near = chunk @ known.T if metric == "cosine" else -torch.cdist(chunk, known)
        index = _nearest(near, voters)
        weight = torch.ones(index.shape, dtype=torch.float64, device=index.device)
        if metric == "cosine":
            chosen = near.gather(1, index).double()
            weight = ((chosen - chosen.amax(1, keepdim=True)) / temperature).exp()
        ballots = one_hot(train_labels[index], classes) * weight[..., None]
        labels.append(ballots.sum(1).argmax(1))
    return torch.cat(labels)


def _nearest(near: Tensor, k: int) -> Tensor:
    """Columns of the k largest of each row, ascending; ties at the edge go to the first columns.

    `topk` alone leaves open which of several equal ones it takes.
    """
    edge = near.topk(k, dim=1).values[:, -1:]
    above = near > edge
    tied = near == edge
    room = k - above.sum(1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(1) <= room))
    return chosen.nonzero()[:, 1].view(len(near), k)


def _check(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> None:
    for part, features, labels in (
        ("train", train_features, train_labels),
        ("test", test_features, test_labels),
    ):
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features):
            raise ValueError(
                f"{part}: expected features N D and labels N with N > 0, got "
                f"{list(features.shape)} and {list(labels.shape)}"
            )
        if not features.isfinite().all():
            raise ValueError(f"{part} features hold NaN or infinite values")
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"train features have {train_features.shape[1]} dimensions, "
            f"test features {test_features.shape[1]}"
        )
