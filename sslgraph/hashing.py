"""Random numbers that are a function of their name: counter-based hashing on int64 tensors.

Nothing here has a state, so a draw depends only on its keys (seed, node, sample position, ...) and
never on batch size, worker, rank or what was drawn before. The function is SplitMix64 (Steele, Lea,
Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014), nested once per key.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLY = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFT = (30, 27, 31)
_WORD = (1 << 64) - 1


def mix(*keys: int | Tensor) -> Tensor:
    """Hash keys to 64 random bits.

    `mix(a, b)` is output number `b` of a SplitMix64 generator whose state is `mix(a)`, and
    `mix(a)` is output number `a` of one whose state is 0; so keys are ordered and may be negative.

    Args:
        keys: Integers and integer tensors, which broadcast against each other; tensors share a
            device. Leading plain integers cost nothing, so put seeds and names first.

    Returns:
        int64 tensor of the broadcast shape (0-d for plain integers), all 64 bits uniform.

    Raises:
        TypeError: A key is neither an int nor an integer tensor.
    """
    state: int | Tensor = 0
    for key in keys:
        if isinstance(key, Tensor):
            state = _next_tensor(state, key)
        elif isinstance(state, Tensor):
            state = _finalise(state + _signed(_GAMMA * (_plain(key) + 1)))
        else:
            state = _finalise_int(state + _GAMMA * (_plain(key) + 1))
    return state if isinstance(state, Tensor) else torch.tensor(_signed(state))


def uniform(bits: Tensor) -> Tensor:
    """Bits to float32 in [0, 1): multiples of 2^-24 from the upper 24 bits, so never 1."""
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def bell(bits: Tensor) -> Tensor:
    """Bits to float32 of mean 0, variance 1 and a bell shape, equal on every device.

    The sum of the four 16-bit quarters of a word (Irwin-Hall with n = 4), within +-3.47 and of
    excess kurtosis -0.3. Integer sums are exact, where the logarithm and cosine of a true normal
    draw differ in the last bit between vector lanes, batch sizes and devices.
    """
    quarters = torch.stack([(bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)]).sum(0)
    mean, variance = 2 * 65535, (65536**2 - 1) / 3
    return (quarters - mean).to(torch.float32) / math.sqrt(variance)


def normal(bits: Tensor) -> Tensor:
    """Bits to float32 standard normal draws (Box-Muller on two 24-bit halves of each word)."""
    radius = ((((bits >> 40) & 0xFFFFFF) + 1).to(torch.float32) * 2.0**-24).log().mul(-2).sqrt()
    angle = ((bits >> 16) & 0xFFFFFF).to(torch.float32) * (2.0**-24 * 2 * torch.pi)
    return radius * angle.cos()


def text_key(text: str) -> int:
    """A name as a 64-bit key: BLAKE2b, so the same in every process, unlike `hash`."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _next_tensor(state: int | Tensor, key: Tensor) -> Tensor:
    if key.is_floating_point() or key.is_complex() or key.dtype == torch.bool:
        raise TypeError(f"hash keys are integers, got a tensor of {key.dtype}")
    start = _signed(state) if isinstance(state, int) else state
    return _finalise((key.to(torch.int64) + 1) * _signed(_GAMMA) + start)


def _finalise(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, _SHIFT[0])) * _signed(_MULTIPLY[0])
    z = (z ^ _shifted(z, _SHIFT[1])) * _signed(_MULTIPLY[1])
    return z ^ _shifted(z, _SHIFT[2])


def _shifted(z: Tensor, places: int) -> Tensor:
    """Logical shift to the right; torch shifts signed words arithmetically."""
    return (z >> places) & (_WORD >> places)


def _finalise_int(z: int) -> int:
    z &= _WORD
    z = (z ^ (z >> _SHIFT[0])) * _MULTIPLY[0] & _WORD
    z = (z ^ (z >> _SHIFT[1])) * _MULTIPLY[1] & _WORD
    return z ^ (z >> _SHIFT[2])


def _signed(word: int) -> int:
    """The same 64 bits as a signed number, which is what an int64 tensor takes."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def _plain(key: int) -> int:
    if isinstance(key, bool) or not isinstance(key, int):
        raise TypeError(f"hash keys are integers, got {key!r}")
    return key
