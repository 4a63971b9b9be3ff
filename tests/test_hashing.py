from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from sslgraph.hashing import bell, mix, normal, text_key, uniform

WORD = (1 << 64) - 1


def by_hand(*keys: int) -> int:
    """SplitMix64 as published, in Python integers: output `key` of a generator seeded by state."""
    state = 0
    for key in keys:
        z = (state + (key + 1) * 0x9E3779B97F4A7C15) & WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        state = z ^ (z >> 31)
    return state


def unsigned(bits: torch.Tensor) -> list[int]:
    return [value & WORD for value in bits.flatten().tolist()]


def test_first_outputs_of_splitmix64_with_seed_0() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert unsigned(mix(torch.arange(3))) == published
    assert [unsigned(mix(n))[0] for n in range(3)] == published


@pytest.mark.parametrize("tensor_at", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_same_words_from_integers_and_tensors_in_any_place(tensor_at: tuple[int, ...]) -> None:
    rows = [(0, 0, 0), (1, 2, 3), (-1, 5, -(2**63)), (2**63 - 1, -7, 2**31), (7, 0, 1)]
    for row in rows:
        keys = [torch.tensor([key]) if i in tensor_at else key for i, key in enumerate(row)]
        assert unsigned(mix(*keys)) == [by_hand(*row)]


def test_tensors_broadcast() -> None:
    bits = mix(9, torch.arange(3)[:, None], torch.arange(4))
    assert bits.shape == (3, 4)
    assert bits.dtype == torch.int64
    assert unsigned(bits) == [by_hand(9, i, j) for i in range(3) for j in range(4)]


def test_narrow_integer_tensors_hash_as_their_value() -> None:
    assert mix(torch.tensor([5], dtype=torch.int32)).equal(mix(torch.tensor([5])))
    assert mix(torch.tensor([255], dtype=torch.uint8)).equal(mix(torch.tensor([255])))


def test_large_names_and_their_signed_twins_are_one_key() -> None:
    assert mix(2**64 - 1, 3).equal(mix(-1, 3))


def test_keys_are_ordered() -> None:
    assert not mix(1, 2).equal(mix(2, 1))
    assert not mix(0).equal(mix(0, 0))


@pytest.mark.parametrize("key", [1.0, True, torch.tensor(1.0), torch.tensor(True)])
def test_only_integers_are_keys(key: object) -> None:
    with pytest.raises(TypeError, match="integers"):
        mix(key)  # type: ignore[arg-type]


def test_uniform_is_the_upper_24_bits() -> None:
    words = [by_hand(3, n) for n in range(1000)]
    expected = np.array([(word >> 40) / 2**24 for word in words], dtype=np.float32)
    np.testing.assert_array_equal(uniform(mix(3, torch.arange(1000))).numpy(), expected)
    assert uniform(torch.tensor(-1)).item() == 1 - 2**-24
    assert uniform(torch.tensor(0)).item() == 0


def test_uniform_fills_the_interval_and_neighbours_are_unrelated() -> None:
    u = uniform(mix(11, torch.arange(200_000))).double().numpy()
    # Kolmogorov-Smirnov distance; 1.95 / sqrt(n) is its 0.1 % point.
    distance = np.abs(np.sort(u) - (np.arange(u.size) + 0.5) / u.size).max()
    assert distance < 1.95 / np.sqrt(u.size)
    for lag in (1, 2, 32):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4 / np.sqrt(u.size)
    other = uniform(mix(12, torch.arange(200_000))).double().numpy()
    assert abs(np.corrcoef(u, other)[0, 1]) < 4 / np.sqrt(u.size)


def test_bell_is_the_scaled_sum_of_the_quarters() -> None:
    words = [by_hand(5, n) for n in range(500)]
    sums = np.array([sum((w >> s) & 0xFFFF for s in (0, 16, 32, 48)) for w in words])
    deviation = np.sqrt(4 * (2.0**32 - 1) / 12)
    expected = (sums - 4 * 65535 / 2) / deviation
    np.testing.assert_allclose(bell(mix(5, torch.arange(500))).numpy(), expected, rtol=1e-6)


def test_normal_is_box_muller() -> None:
    words = [by_hand(5, n) for n in range(500)]
    radius = np.sqrt([-2 * np.log(((w >> 40) + 1) / 2**24) for w in words])
    angle = [2 * np.pi * ((w >> 16) & 0xFFFFFF) / 2**24 for w in words]
    got = normal(mix(5, torch.arange(500))).numpy()
    np.testing.assert_allclose(got, radius * np.cos(angle), atol=5e-6)


@pytest.mark.parametrize("draw", [normal, bell])
def test_moments(draw: object) -> None:
    x = draw(mix(21, torch.arange(400_000))).double()  # type: ignore[operator]
    assert abs(x.mean()) < 4 / 400_000**0.5
    assert abs(x.var() - 1) < 4 * (2 / 400_000) ** 0.5
    assert abs((x**3).mean()) < 0.02
    assert abs((x**4).mean() - (3.0 if draw is normal else 2.7)) < 0.06


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    normal(mix(1, torch.arange(10)))
    assert torch.get_rng_state().equal(before)


def test_text_keys_hold_in_another_process() -> None:
    code = "from sslgraph.hashing import text_key; print(text_key('views'))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(other.stdout) == text_key("views")
    assert text_key("views") != text_key("view")
    assert 0 <= text_key("views") < 2**64
