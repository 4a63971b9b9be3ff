"""Numbers that tell a healthy representation from a collapsing one without any label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_EPSILON = 1e-7


@torch.no_grad()
def feature_std(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation of l2-normalised features.

    Chen, He: "Exploring Simple Siamese Representation Learning", CVPR 2021, section 4.1: near
    1 / sqrt(D) where directions are spread over the sphere, 0 where all features are one point.

    Args:
        features: N D with N > 1.

    Raises:
        ValueError: Another shape, or a single row.
    """
    _check(features)
    return normalize(features.float(), dim=1).std(0, correction=0).mean().item()


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Effective rank of the features, between 1 and min(N, D).

    Garrido, Balestriero, Najman, LeCun: "RankMe", ICML 2023, equation 1: the exponential of the
    entropy of the singular values divided by their sum. Features are taken as they are, neither
    centred nor normalised.

    Args:
        features: N D with N > 1.

    Raises:
        ValueError: Another shape, or a single row.
    """
    _check(features)
    singular = torch.linalg.svdvals(features.double())
    share = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + _EPSILON
    return float((-(share * share.log()).sum()).exp())


def _check(features: Tensor) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features N D with N > 1, got {list(features.shape)}")
