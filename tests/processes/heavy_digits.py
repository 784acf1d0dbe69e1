"""Digits with a Boss that takes its time: the small network, and idle work for some milliseconds per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.digits import Digits

if TYPE_CHECKING:
    from torch import Tensor


class HeavyDigits(Digits):
    """As digits; each step also multiplies matrices, so that a run lasts long enough to be disturbed."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        import torch

        torch.mm(torch.ones(1000, 1000), torch.ones(1000, 1000))
        return super().losses(outputs, targets)
