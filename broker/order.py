"""The seeded order of an epoch, without storing it: a permutation that computes any stretch on demand."""

from __future__ import annotations

import numpy as np

from protocol.arrays import I64

ROUNDS = 6
_U64 = np.uint64


def _mix(values: np.ndarray, key: int) -> np.ndarray:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    mixed = values + _U64(key)
    mixed = (mixed ^ (mixed >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> _U64(27))) * _U64(0x94D049BB133111EB)
    return mixed ^ (mixed >> _U64(31))


class EpochOrder:
    """Permutation of ``0 … n-1`` keyed by (seed, epoch): a Feistel network with cycle walking.

    O(1) memory for any ``n``. Price: about 1 µs per ID instead of a table look-up, and statistical rather than
    cryptographic quality.
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        self.n = n
        self._half_bits = max(1, (max(1, n - 1).bit_length() + 1) // 2)
        self._mask = _U64((1 << self._half_bits) - 1)
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        self._keys = [int(k) for k in rng.integers(0, 1 << 63, size=ROUNDS)]

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> _U64(self._half_bits), values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right, key) & self._mask)
        return (left << _U64(self._half_bits)) | right

    def ids(self, start: int, stop: int) -> I64:
        """IDs at positions ``start … stop-1`` of the order, shape ``(stop-start,)``.

        Raises ValueError where the stretch leaves ``0 … n``.
        """
        if not 0 <= start <= stop <= self.n:
            raise ValueError(f"positions {start} to {stop} leave 0 to {self.n}")
        values = self._encrypt(np.arange(start, stop, dtype=np.uint64))
        outside = values >= _U64(self.n)
        while outside.any():
            values[outside] = self._encrypt(values[outside])
            outside = values >= _U64(self.n)
        return values.astype(np.int64)
