from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sslgraph.evaluate import feature_std, knn_accuracy, rankme
from sslgraph.evaluate.knn import predict


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    centers = np.random.default_rng(0).normal(size=(4, 6))
    features = centers[labels] + rng.normal(size=(count, 6)) * 1.5
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def by_hand(train: Tensor, labels: Tensor, asked: Tensor, k: int, temperature: float) -> list[int]:
    """Equations of Wu et al., section 3.4, one test image at a time in float64."""
    known = train.double().numpy()
    known = known / np.linalg.norm(known, axis=1, keepdims=True)
    answers = []
    for row in asked.double().numpy():
        similarity = known @ (row / np.linalg.norm(row))
        nearest = sorted(range(len(known)), key=lambda i: -similarity[i])[:k]
        votes = np.zeros(int(labels.max()) + 1)
        for i in nearest:
            votes[labels[i]] += np.exp(similarity[i] / temperature)
        answers.append(int(votes.argmax()))
    return answers


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (500, 0.07)])
def test_weighted_vote_against_numpy(k: int, temperature: float) -> None:
    train, test = clusters(300, 1), clusters(200, 2)
    expected = by_hand(*train, test[0], min(k, 300), temperature)
    got = predict(*train, test[0], k=k, temperature=temperature, metric="cosine")
    assert got.tolist() == expected
    accuracy = knn_accuracy(*train, *test, k=k, temperature=temperature)
    assert accuracy == pytest.approx(np.mean(np.array(expected) == test[1].numpy()))
    assert 0.3 < accuracy < 1.0


def test_temperature_and_k_change_the_vote() -> None:
    train, test = clusters(300, 1), clusters(200, 2)
    votes = {
        (k, t): tuple(predict(*train, test[0], k=k, temperature=t, metric="cosine").tolist())
        for k, t in [(1, 0.07), (20, 0.07), (20, 10.0)]
    }
    assert len(set(votes.values())) == 3


def test_l2_gives_each_neighbour_one_vote() -> None:
    train, test = clusters(300, 1), clusters(200, 2)
    distance = ((test[0].numpy()[:, None] - train[0].numpy()[None]) ** 2).sum(-1)
    expected = [
        int(np.bincount(train[1].numpy()[np.argsort(row, kind="stable")[:5]]).argmax())
        for row in distance
    ]
    got = predict(*train, test[0], k=5, temperature=0.07, metric="l2")
    assert got.tolist() == expected


def test_metrics_differ_where_length_matters() -> None:
    train = torch.tensor([[10.0, 0.0], [0.5, 0.6]])
    labels, asked = torch.tensor([0, 1]), torch.tensor([[1.0, 0.1]])
    assert predict(train, labels, asked, k=1, temperature=1, metric="cosine").tolist() == [0]
    assert predict(train, labels, asked, k=1, temperature=1, metric="l2").tolist() == [1]


def test_ties_go_to_the_first_image() -> None:
    train = torch.ones(50, 3)
    labels = torch.tensor([2] * 3 + [1] * 47)
    asked = torch.ones(4, 3)
    assert predict(train, labels, asked, k=3, temperature=0.07, metric="cosine").tolist() == [2] * 4
    assert predict(train, labels, asked, k=7, temperature=0.07, metric="cosine").tolist() == [1] * 4


def test_many_test_images_equal_few_at_a_time() -> None:
    train, test = clusters(300, 1), clusters(2500, 2)
    whole = predict(*train, test[0], k=20, temperature=0.07, metric="cosine")
    parts = [
        predict(*train, part, k=20, temperature=0.07, metric="cosine")
        for part in torch.split(test[0], 100)
    ]
    assert whole.equal(torch.cat(parts))


def test_small_temperature_does_not_overflow() -> None:
    train, test = clusters(100, 1), clusters(50, 2)
    nearest = predict(*train, test[0], k=1, temperature=1, metric="cosine")
    assert predict(*train, test[0], k=9, temperature=1e-4, metric="cosine").equal(nearest)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": 0}, "k and temperature are positive, got 0 and 0.07"),
        ({"train_labels": torch.zeros(3, dtype=torch.int64)}, "train: expected features N D"),
        ({"test_features": torch.zeros(5, 4)}, "6 dimensions, test features 4"),
        ({"test_features": torch.full((5, 6), torch.nan)}, "test features hold NaN"),
        ({"train_features": torch.zeros(0, 6), "train_labels": torch.zeros(0)}, "with N > 0"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], text: str) -> None:
    train, test = clusters(10, 1), clusters(5, 2)
    given = {
        "train_features": train[0],
        "train_labels": train[1],
        "test_features": test[0],
        "test_labels": test[1],
    }
    with pytest.raises(ValueError, match=text):
        knn_accuracy(**{**given, **change})  # type: ignore[arg-type]


def test_feature_std_against_numpy() -> None:
    x = clusters(100, 3)[0]
    unit = x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True)
    assert feature_std(x) == pytest.approx(unit.std(0).mean(), rel=1e-5)


def test_feature_std_of_the_sphere_and_of_a_point() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(20_000, 64)))
    assert feature_std(x) == pytest.approx(64**-0.5, rel=0.01)
    assert feature_std(torch.ones(10, 64) * torch.arange(1, 11)[:, None]) < 1e-6


def test_rankme_against_numpy() -> None:
    x = clusters(100, 3)[0]
    singular = np.linalg.svd(x.double().numpy(), compute_uv=False)
    share = singular / np.abs(singular).sum() + 1e-7
    assert rankme(x) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)


def test_rankme_counts_equal_directions() -> None:
    x = torch.zeros(40, 16)
    x[torch.arange(40), torch.arange(40) % 5] = 3.0
    assert rankme(x) == pytest.approx(5, rel=1e-3)
    assert rankme(torch.zeros(40, 16)) == pytest.approx(1, abs=1e-2)


SINES = torch.arange(1, 25, dtype=torch.float64).sin().view(6, 4)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (torch.eye(8), 8.0000069),
        (torch.ones(6, 4), 1.0000047),
        (torch.diag(torch.tensor([4.0, 2, 1, 1])), 3.363586),
        (SINES, 1.955342),
    ],
)
def test_golden_rankme(features: Tensor, expected: float) -> None:
    """By equation 1 of the paper with its epsilon of 1e-7, without centring."""
    assert rankme(features) == pytest.approx(expected, abs=5e-7)


def test_golden_feature_std() -> None:
    """Lightly's `std_of_l2_normalized` (lightly/utils/debug.py) divides by N - 1, ours by N."""
    assert feature_std(SINES) * (6 / 5) ** 0.5 == pytest.approx(0.542186, abs=5e-7)


@pytest.mark.parametrize("measure", [feature_std, rankme])
@pytest.mark.parametrize("shape", [(1, 4), (4,), (2, 3, 4)])
def test_diagnostics_need_rows(measure: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="N D with N > 1"):
        measure(torch.ones(shape))  # type: ignore[operator]
