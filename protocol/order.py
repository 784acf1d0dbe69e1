"""The seeded order of an epoch, without storing it: a permutation that computes any stretch on demand."""

from __future__ import annotations

import numpy as np

from protocol.arrays import I64

ROUNDS = 6
BLOCK = 2048
"""Positions that are computed at a time: eight windows of the default size, at little more than the price of one."""
BLOCKS_KEPT = 4
STRETCHES_KEPT = 8
"""Longer ones, such as the windows of many ranks: each is asked for when it is leased and again when its selection
comes, with others between. 4 MB with the longest windows, none with the usual ones."""
FEW = 12
"""Values that are permuted sooner one by one than as an array."""
_U64 = np.uint64
_ALL = (1 << 64) - 1
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BY30, _BY27, _BY31, _TIMES1, _TIMES2 = _U64(30), _U64(27), _U64(31), _U64(_M1), _U64(_M2)


def _mix(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    mixed: np.ndarray = values + key
    mixed ^= mixed >> _BY30
    mixed *= _TIMES1
    mixed ^= mixed >> _BY27
    mixed *= _TIMES2
    mixed ^= mixed >> _BY31
    return mixed


def _mix_one(value: int, key: int) -> int:
    """The same of a single value."""
    mixed = (value + key) & _ALL
    mixed = ((mixed ^ (mixed >> 30)) * _M1) & _ALL
    mixed = ((mixed ^ (mixed >> 27)) * _M2) & _ALL
    return mixed ^ (mixed >> 31)


class EpochOrder:
    """Permutation of ``0 … n-1`` keyed by (seed, epoch): a Feistel network with cycle walking.

    O(1) memory for any ``n``: a few blocks and long stretches of IDs, those that were asked for last. Price: up to half
    a microsecond per ID instead of a table look-up, and statistical rather than cryptographic quality.
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        self.n = n
        self._half_bits = max(1, (max(1, n - 1).bit_length() + 1) // 2)
        self._shift, self._mask = _U64(self._half_bits), _U64((1 << self._half_bits) - 1)
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        self._keys = [_U64(k) for k in rng.integers(0, 1 << 63, size=ROUNDS)]
        self._blocks: dict[int, I64] = {}
        self._stretches: dict[tuple[int, int], I64] = {}

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._shift, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right, key) & self._mask)
        return (left << self._shift) | right

    def _encrypt_one(self, value: int) -> int:
        mask = (1 << self._half_bits) - 1
        left, right = value >> self._half_bits, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mix_one(right, int(key)) & mask)
        return (left << self._half_bits) | right

    def _decrypt_one(self, value: int) -> int:
        mask = (1 << self._half_bits) - 1
        left, right = value >> self._half_bits, value & mask
        for key in reversed(self._keys):
            left, right = right ^ (_mix_one(left, int(key)) & mask), left
        return (left << self._half_bits) | right

    def position(self, instance_id: int) -> int:
        """Where in the order an ID stands: ``ids(p, p + 1)[0] == i`` exactly where ``position(i) == p``.

        Raises ValueError for an ID outside ``0 … n-1``.
        """
        if not 0 <= instance_id < self.n:
            raise ValueError(f"instance {instance_id} is none of 0 to {self.n - 1}")
        value = self._decrypt_one(instance_id)
        while value >= self.n:  # a value on the way from the position to the ID, walked past there as here
            value = self._decrypt_one(value)
        return value

    def ids(self, start: int, stop: int) -> I64:
        """IDs at positions ``start … stop-1`` of the order, shape ``(stop-start,)``, read-only.

        Raises ValueError where the stretch leaves ``0 … n``.
        """
        if not 0 <= start <= stop <= self.n:
            raise ValueError(f"positions {start} to {stop} leave 0 to {self.n}")
        first, last = start // BLOCK, max(start, stop - 1) // BLOCK
        if last - first >= BLOCKS_KEPT:
            return self._stretch(start, stop)
        if first == last:
            return self._block(first)[start - first * BLOCK : stop - first * BLOCK]
        whole = np.concatenate([self._block(block) for block in range(first, last + 1)])
        return whole[start - first * BLOCK : stop - first * BLOCK]

    def _block(self, block: int) -> I64:
        if block not in self._blocks:
            if len(self._blocks) >= BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[block] = self._compute(block * BLOCK, min(self.n, (block + 1) * BLOCK))
        return self._blocks[block]

    def _stretch(self, start: int, stop: int) -> I64:
        if (start, stop) not in self._stretches:
            if len(self._stretches) >= STRETCHES_KEPT:
                del self._stretches[next(iter(self._stretches))]
            self._stretches[start, stop] = self._compute(start, stop)
        return self._stretches[start, stop]

    def _compute(self, start: int, stop: int) -> I64:
        values = self._encrypt(np.arange(start, stop, dtype=np.uint64))
        outside = np.flatnonzero(values >= _U64(self.n))
        while len(outside) > FEW:
            values[outside] = self._encrypt(values[outside])
            outside = outside[values[outside] >= _U64(self.n)]
        for place in outside:
            value = int(values[place])
            while value >= self.n:
                value = self._encrypt_one(value)
            values[place] = value
        ids = values.astype(np.int64)
        ids.setflags(write=False)
        return ids
