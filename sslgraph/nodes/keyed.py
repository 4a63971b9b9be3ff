"""Draws that are a function of (seed, node, view, sample position, name) and of nothing else.

With `mix`, `text_key`, `uniform` and `normal` of `sslgraph.hashing` (nested SplitMix64, BLAKE2b of
the name), all of a node's randomness is

    sample(i)   = mix(seed, salt, view, position[i])
    bits(i)     = mix(text_key(name), sample(i))             one number a sample
    bits(i, k)  = mix(text_key(name), sample(i), k)          number k of a row, k = 0, 1, ...

    uniform     = (bits >> 40) / 2^24 * (high - low) + low   float32, 24 bits, high excluded
    bernoulli   = (bits >> 40) / 2^24 < p
    integer     = low + (((bits >> 32) * count) >> 32)       logical shifts, exact
    permutation = argsort over k of bits(i, k), as signed words
    normal      = Box-Muller on the two upper 24-bit parts of a word

so sample 17 has the same draws in every batch, on every rank and in any order of calls. All but
`normal` are exact arithmetic, equal to the last bit on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslgraph import hashing


class Draws:
    """Random numbers of one node for one view of a batch of samples.

    Args:
        seed: The run's seed, a plain or a 0-d integer.
        view: Which view of the image this is.
        position: B sample positions, int64; the draws are made on its device. On the CPU, which
            samples an operation hits is known without waiting for an accelerator.
        salt: Key of the node, so that two nodes of a graph are independent.
        scope: Prefix of every name, such as `blur/0/`.
    """

    def __init__(
        self, seed: Tensor | int, view: int, position: Tensor, salt: int, *, scope: str = ""
    ) -> None:
        self.position, self.scope = position, scope
        self._sample = hashing.mix(seed, salt, view, position)

    def within(self, scope: str) -> Draws:
        """The same draws with every name below `scope`; costs nothing."""
        inner = object.__new__(Draws)
        inner.position, inner._sample = self.position, self._sample
        inner.scope = f"{self.scope}{scope}/"
        return inner

    def bits(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """B x `shape` words of 64 random bits as int64; a row counts its numbers in C order."""
        key = hashing.text_key(self.scope + name)
        if not shape:
            return hashing.mix(key, self._sample)
        lanes = torch.arange(torch.Size(shape).numel(), device=self.position.device)
        words = hashing.mix(key, self._sample[:, None], lanes)
        return words.reshape(len(self.position), *shape)

    def uniform(
        self, name: str, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()
    ) -> Tensor:
        """B x `shape` float32 in [low, high)."""
        return hashing.uniform(self.bits(name, shape)) * (high - low) + low

    def bernoulli(self, name: str, p: float) -> Tensor:
        """B bools that are true with probability p; always at 1, never at 0."""
        return hashing.uniform(self.bits(name)) < p

    def integer(
        self, name: str, low: int, high: int | Tensor, shape: tuple[int, ...] = ()
    ) -> Tensor:
        """B x `shape` int64 in [low, high], both included; `high` may differ by sample.

        At most 2^31 values; the bias against any of them is below their count / 2^32.
        """
        upper = (self.bits(name, shape) >> 32) & 0xFFFFFFFF
        return ((upper * (high - low + 1)) >> 32) + low

    def permutation(self, name: str, n: int) -> Tensor:
        """B x n int64: an order of 0 ... n - 1 for each sample."""
        return self.bits(name, (n,)).argsort(dim=1, stable=True)

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """B x `shape` float32 standard normal, equal between devices up to the last bits."""
        return hashing.normal(self.bits(name, shape))
