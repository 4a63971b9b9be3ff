"""How good the features are while they train: nearest neighbours, spread, rank.

Everything is measured in evaluation form, so measuring changes nothing of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sslgraph.data.loader import in_order, permutation
from sslgraph.data.source import BadFile, Source
from sslgraph.evaluate import feature_std, knn_accuracy, rankme
from sslgraph.method import Method

_BATCH = 256
_LARGEST_SIDE = 64
_RANK_ROWS = 2048
_QUICK_BANK = 1024
_QUICK_TESTS = 512

Features = Callable[[Tensor], Tensor]
"""From images B C H W to features 1 B D."""


@dataclass(frozen=True)
class Quality:
    """What features are worth.

    Args:
        knn: Share of test images whose label their neighbours tell, None without labels.
        std: Spread of the directions; 1/sqrt(D) is as wide as can be, 0 is a collapse.
        rank: Effective rank (RankMe).
        width: D, the size of a feature.
    """

    knn: float | None
    std: float
    rank: float
    width: int

    @property
    def collapsed(self) -> bool:
        """Whether the directions hardly differ: under a tenth of the widest spread."""
        return self.std < 0.1 / math.sqrt(self.width)


class Sample:
    """Some images of a source, drawn the same way in every run.

    Args:
        source: Where they come from.
        count: How many at most.
        part: `(place, parts)` to take every `parts`-th image only, from `place` on.
    """

    def __init__(self, source: Source, count: int, part: tuple[int, int] = (0, 1)) -> None:
        self._source = source
        chosen = permutation(0, 0, len(source))[part[0] :: part[1]]
        self._ids: list[int] = chosen[:count].tolist()

    @property
    def classes(self) -> Sequence[str]:
        """Class names of the source."""
        return self._source.classes

    @property
    def bad(self) -> Sequence[BadFile]:
        """Unreadable files of the source."""
        return self._source.bad

    def __len__(self) -> int:
        return len(self._ids)

    def images(self, indexes: Sequence[int]) -> Tensor:
        """Pixels, uint8 B C H W."""
        return self._source.images([self._ids[index] for index in indexes])

    def label(self, index: int) -> int | None:
        """Class of an image."""
        return self._source.label(self._ids[index])

    def uri(self, index: int) -> str:
        """Name of an image."""
        return self._source.uri(self._ids[index])


class Monitor:
    """Measures features on a bank of known images and on test images.

    Args:
        source: The training images.
        test_source: Images that training never sees; without it one half of the training images
            asks the other half.
        device: Where the method is.
        output: Which of the graph's outputs is the feature.
        bank: Known images at most.
        tests: Test images at most.
    """

    def __init__(
        self,
        source: Source,
        test_source: Source | None,
        device: torch.device,
        *,
        output: str = "embedding",
        bank: int = 4096,
        tests: int = 2048,
    ) -> None:
        self.unseen = test_source is not None
        parts = (1, 1) if self.unseen else (2, 2)
        self.bank = Sample(source, bank, (0, parts[0]))
        self.tests = Sample(test_source or source, tests, (parts[1] - 1, parts[1]))
        self.device = device
        self.output = output
        self.classes = len(source.classes) if len(source.classes) > 1 else 0

    @property
    def chance(self) -> float | None:
        """KNN accuracy of guessing the largest class of the test images, None without labels."""
        labels = [self.tests.label(index) for index in range(len(self.tests))]
        known = [label for label in labels if label is not None]
        if not self.classes or not known:
            return None
        return max(known.count(label) for label in set(known)) / len(known)

    def measure(self, method: Method, *, quick: bool = False) -> Quality:
        """The quality of a method's features as it is now.

        Args:
            method: The method.
            quick: Use a part of the images; accuracy is then a little lower and noisier.
        """
        limits = (_QUICK_BANK, _QUICK_TESTS) if quick else (len(self.bank), len(self.tests))
        knn, features = self._neighbours(
            lambda images: method.outputs({"image": images}, [self.output])[self.output], limits
        )
        finite = bool(features.isfinite().all()) and len(features) > 1
        std = feature_std(features) if finite else math.nan
        rank = rankme(features[:_RANK_ROWS]) if finite else math.nan
        return Quality(knn, std, rank, features.shape[1])

    def pixels(self) -> float | None:
        """KNN accuracy on raw pixels, images over 64 pixels averaged down; None without labels."""
        if not self.classes:
            return None
        knn, _ = self._neighbours(_pixels, (len(self.bank), len(self.tests)))
        return knn

    def _neighbours(
        self, features_of: Features, limits: tuple[int, int]
    ) -> tuple[float | None, Tensor]:
        """Accuracy, and the features N D of the images that were asked; of the bank if none was."""
        known, known_labels = self._features(self.bank, features_of, limits[0])
        if not self.classes:
            return None, known
        asked, asked_labels = self._features(self.tests, features_of, limits[1])
        if not len(known) or not len(asked):
            return None, known
        if not asked.isfinite().all() or not known.isfinite().all():
            return None, asked
        return knn_accuracy(known, known_labels, asked, asked_labels), asked

    def _features(self, sample: Sample, features_of: Features, limit: int) -> tuple[Tensor, Tensor]:
        """Features N D and labels N, images without label left out where there are classes."""
        features, labels = [], []
        part = Sample(sample, limit)
        for batch in in_order(part, batch_size=_BATCH, device=self.device):
            value = features_of(batch["image"])[0].float()
            keep = batch["label"] >= (0 if self.classes else -1)
            features.append(value.flatten(1)[keep])
            labels.append(batch["label"][keep])
        return torch.cat(features), torch.cat(labels)


def _pixels(images: Tensor) -> Tensor:
    """1 B D."""
    images = images.float() / 255
    side = min(_LARGEST_SIDE, *images.shape[2:])
    if max(images.shape[2:]) > _LARGEST_SIDE:
        images = adaptive_avg_pool2d(images, side)
    return images.flatten(1).unsqueeze(0)
