import math
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import pytest
import torch

from sslgraph.nodes.keyed import Draws

N = 40_000
WORD = 2**64


def draws(n: int = N, *, seed: int = 3, view: int = 1, salt: int = 77, start: int = 0) -> Draws:
    return Draws(seed, view, torch.arange(start, start + n), salt)


# The hash of the docstring in plain integers, written from it and not from the code.


def finalise(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def mix(*keys: int) -> int:
    state = 0
    for key in keys:
        state = finalise((state + 0x9E3779B97F4A7C15 * (key + 1)) % WORD)
    return state


def name_key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def bits_by_hand(name: str, position: int, *, seed: int = 3, view: int = 1, salt: int = 77) -> int:
    return mix(name_key(name), mix(seed, salt, view, position))


@pytest.mark.parametrize("position", [0, 17, 123_456_789, 2**40])
def test_the_documented_formula(position: int) -> None:
    made = Draws(3, 1, torch.tensor([position]), 77)
    word = bits_by_hand("blur/0/sigma", position)
    assert made.bits("blur/0/sigma").item() % WORD == word
    share = (word >> 40) / 2**24
    assert made.uniform("blur/0/sigma").item() == share
    expected = np.float32(share) * np.float32(1.9) + np.float32(0.1)
    assert made.uniform("blur/0/sigma", 0.1, 2.0).item() == pytest.approx(expected, rel=1e-7)
    assert made.bernoulli("blur/0/sigma", 0.3).item() is (share < 0.3)
    assert made.integer("blur/0/sigma", 5, 44).item() == 5 + ((word >> 32) * 40 >> 32)


def test_a_row_of_numbers_follows_the_formula() -> None:
    made = Draws(3, 1, torch.tensor([17]), 77)
    sample = mix(3, 77, 1, 17)
    words = [mix(name_key("order"), sample, lane) for lane in range(6)]
    assert [w % WORD for w in made.bits("order", (2, 3)).flatten().tolist()] == words
    signed = [w - WORD if w >> 63 else w for w in words]
    assert made.permutation("order", 6)[0].tolist() == sorted(range(6), key=signed.__getitem__)
    one, two = (words[0] >> 40), (words[0] >> 16) & 0xFFFFFF
    by_hand = math.sqrt(-2 * math.log((one + 1) / 2**24)) * math.cos(two / 2**24 * 2 * math.pi)
    assert made.normal("order", (1,)).item() == pytest.approx(by_hand, abs=1e-5)


def test_a_sample_does_not_see_its_batch() -> None:
    many = draws(32)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    mixed = Draws(3, 1, order, 77)
    for position in (0, 17, 31):
        alone = draws(1, start=position)
        for draw in DRAWN.values():
            row = draw(alone)[0]
            assert torch.equal(row, draw(many)[position])
            assert torch.equal(row, draw(mixed)[order == position][0])


DRAWN: dict[str, Callable[[Draws], torch.Tensor]] = {
    "uniform": lambda d: d.uniform("a", -1, 3),
    "bernoulli": lambda d: d.bernoulli("a", 0.4),
    "integer": lambda d: d.integer("a", -3, 9),
    "permutation": lambda d: d.permutation("a", 5),
    "normal": lambda d: d.normal("a", (3, 2)),
}


def test_order_of_calls_and_global_generators_play_no_part() -> None:
    made = draws(64)
    state = torch.random.get_rng_state()
    forth = [draw(made) for draw in DRAWN.values()]
    torch.manual_seed(5)
    back = [draw(made) for draw in reversed(DRAWN.values())][::-1]
    torch.random.set_rng_state(state)
    assert all(map(torch.equal, forth, back))
    for draw in DRAWN.values():
        draw(made)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_seed_may_be_a_tensor_and_a_scope_is_a_prefix() -> None:
    plain, position = draws(16), torch.arange(16)
    assert torch.equal(
        Draws(torch.tensor(3), 1, position, 77).uniform("x/y"), plain.within("x").uniform("y")
    )
    nested = Draws(3, 1, position, 77, scope="x/").within("y").bits("z")
    assert torch.equal(nested, plain.bits("x/y/z"))


def test_uniform_is_uniform() -> None:
    values = draws().uniform("a", 2.0, 5.0).numpy()
    assert values.min() >= 2.0
    assert values.max() < 5.0
    counts = np.histogram(values, 100, (2.0, 5.0))[0]
    statistic = ((counts - N / 100) ** 2 / (N / 100)).sum()
    assert 50 < statistic < 165  # chi-square with 99 degrees of freedom, both tails about 1e-5


OTHERS = {
    "name": (lambda: draws().uniform("b")),
    "view": (lambda: draws(view=0).uniform("a")),
    "seed": (lambda: draws(seed=4).uniform("a")),
    "node": (lambda: draws(salt=78).uniform("a")),
    "next position": (lambda: draws(start=1).uniform("a")),
    "position 128 on": (lambda: draws(start=128).uniform("a")),
    "scope": (lambda: draws().within("s").uniform("a")),
    "row": (lambda: draws().uniform("a", shape=(2,))[:, 1]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_draws_of_different_keys_are_independent(other: str) -> None:
    one, two = draws().uniform("a").numpy(), OTHERS[other]().numpy()
    correlation = np.corrcoef(one, two)[0, 1]
    assert abs(correlation) < 4.5 / math.sqrt(N)
    joint = np.histogram2d(one, two, 8, ((0, 1), (0, 1)))[0]
    statistic = ((joint - N / 64) ** 2 / (N / 64)).sum()
    assert 25 < statistic < 125  # 63 degrees of freedom


def test_chances() -> None:
    made = draws()
    assert not made.bernoulli("a", 0.0).any()
    assert made.bernoulli("a", 1.0).all()
    share = made.bernoulli("a", 0.2).double().mean().item()
    assert abs(share - 0.2) < 4.5 * math.sqrt(0.2 * 0.8 / N)


def test_integers_cover_both_ends_and_may_end_anywhere() -> None:
    made = draws()
    values = made.integer("a", -2, 4)
    counts = torch.bincount(values + 2, minlength=7).double()
    assert len(counts) == 7
    assert ((counts - N / 7) ** 2 / (N / 7)).sum() < 35  # 6 degrees of freedom
    high = torch.arange(N) % 5
    each = made.integer("a", 0, high)
    assert (each >= 0).all()
    assert (each <= high).all()
    assert all(each[high == top].max() == top for top in range(5))


def test_all_orders_are_equally_likely() -> None:
    orders = draws().permutation("a", 4)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(N, 4))
    counts = torch.bincount((orders * torch.tensor([64, 16, 4, 1])).sum(1)).double()
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert ((counts - N / 24) ** 2 / (N / 24)).sum() < 60  # 23 degrees of freedom


def test_normal_moments() -> None:
    values = draws().normal("a").double()
    assert abs(values.mean()) < 4.5 / math.sqrt(N)
    assert abs(values.var() - 1) < 4.5 * math.sqrt(2 / N)
    assert abs((values**4).mean() - 3) < 4.5 * math.sqrt(96 / N)
    apart = draws(64).normal("a", (3, 8)).flatten()
    assert len(set(apart.tolist())) == 64 * 24
