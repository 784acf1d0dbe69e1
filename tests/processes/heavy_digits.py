"""Digits with a Boss that takes its time: the small network, and idle work for some milliseconds per step."""

from __future__ import annotations

import torch
from torch import Tensor

from workloads.digits import Digits


class HeavyDigits(Digits):
    """As digits; each step also multiplies matrices, so that a run lasts long enough to be disturbed."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        torch.mm(torch.ones(1000, 1000), torch.ones(1000, 1000))
        return super().losses(outputs, targets)
