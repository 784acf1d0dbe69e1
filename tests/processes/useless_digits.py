"""Digits on which no policy can know anything: losses of other instances, or features of none."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.digits import Digits


class PermutedLosses(Digits):
    """In training, each instance reports the loss of another one of its batch."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = super().losses(outputs, targets)
        if not torch.is_grad_enabled():
            return found
        seed = int(1e4 * float(found.detach().sum())) % (1 << 31)
        return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))]


class RandomFeatures(Digits):
    """Features that have nothing to do with the instances, and no labels."""

    def features(self) -> NDArray[np.float32]:
        return np.random.default_rng(7).normal(size=(self.fingerprint().n, 8)).astype(np.float32)

    def labels(self) -> None:
        return None
