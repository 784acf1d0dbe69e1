"""Digits that claim to be sentences: each has a length, and a loss that counts for so many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tests.processes.heavy_digits import HeavyDigits

if TYPE_CHECKING:
    from torch import Tensor

MOST = 120


class TokenDigits(HeavyDigits):
    """As digits, some of them several times as long as others."""

    def lengths(self) -> NDArray[np.int64]:
        drawn = np.random.default_rng(5).lognormal(3.0, 0.6, self.fingerprint().n)
        return np.clip(np.rint(drawn), 1, MOST).astype(np.int64)

    def token_counts(self, targets: Tensor) -> Tensor:
        return targets + 1


class TooLongDigits(TokenDigits):
    """One of them is longer than it may be."""

    def lengths(self) -> NDArray[np.int64]:
        found = super().lengths()
        found[17] = 5000
        return found
