"""Digits whose second rank fails after some steps, by a mistake of the user's."""

from __future__ import annotations

import os

from torch import Tensor

from workloads.digits import Digits

GOOD_STEPS = 20


class FailingRank(Digits):
    """As digits, until rank 1 has had enough."""

    steps = 0

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.steps += 1
        if os.environ.get("RANK") == "1" and self.steps > GOOD_STEPS:
            raise ValueError("the second rank has had enough")
        return super().losses(outputs, targets)
