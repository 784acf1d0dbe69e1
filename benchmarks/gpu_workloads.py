"""Fashion-MNIST with other peak learning rates for large batches: ``benchmarks.gpu_savings`` takes the best."""

from __future__ import annotations

import torch
from torch import nn

from workloads.fashion_mnist import FashionMnist


class Fashion01(FashionMnist):
    """Peak learning rate 0.1."""

    peak_lr = 0.1

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        """The workload's own, with that rate."""
        optimizer = super().optimizer(boss)
        for group in optimizer.param_groups:
            group["lr"] = self.peak_lr
        return optimizer


class Fashion02(Fashion01):
    """Peak learning rate 0.2."""

    peak_lr = 0.2


class Fashion04(Fashion01):
    """Peak learning rate 0.4."""

    peak_lr = 0.4


class Fashion08(Fashion01):
    """Peak learning rate 0.8."""

    peak_lr = 0.8


CANDIDATES = (Fashion01, Fashion02, Fashion04, Fashion08)
