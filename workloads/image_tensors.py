"""Images as torch sees them: what a Boss trains on. Apart from the workload, so that an Assistant needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workloads.sources import ImageSet

_EVALUATION_BATCH = 250
"""Twice as fast as 1,000 on two CPU cores, since the activations stay in their caches."""


@dataclass(frozen=True)
class ImageTensors:
    """An `ImageSet` as tensors. Images stay uint8: a quarter of the memory for some 20 µs a batch."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    shift: float
    """Mean of the training pixels, 0 … 255."""
    scale: float
    """One over their standard deviation."""

    @classmethod
    def of(cls, images: ImageSet, *, shift: float, scale: float) -> ImageTensors:
        """Sharing the images' memory where torch can."""
        return cls(
            train_images=_tensor(images.train_images),
            train_labels=_tensor(images.train_labels),
            test_images=_tensor(images.test_images),
            test_labels=_tensor(images.test_labels),
            shift=shift,
            scale=scale,
        )

    def standardise(self, images: Tensor) -> Tensor:
        """uint8 pixels to float32 with mean 0 and deviation 1 over the whole training set."""
        return images.to(torch.float32).sub_(self.shift).mul_(self.scale)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Training images ``(len(ids), c, h, w)`` float32, standardised, and labels ``(len(ids),)`` int64."""
        rows = torch.tensor(np.asarray(ids, dtype=np.int64))
        images = self.train_images.index_select(0, rows)
        return self.standardise(images), self.train_labels.index_select(0, rows)

    def accuracy(self, boss: nn.Module, device: torch.device) -> float:
        """Fraction of the test images whose greatest logit is the label's."""
        correct = torch.zeros((), dtype=torch.int64, device=device)
        with torch.no_grad():
            for start in range(0, len(self.test_labels), _EVALUATION_BATCH):
                images = self.test_images[start : start + _EVALUATION_BATCH].to(device)
                labels = self.test_labels[start : start + _EVALUATION_BATCH].to(device)
                correct += (boss(self.standardise(images)).argmax(dim=1) == labels).sum()
        return int(correct) / len(self.test_labels)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """``array`` as a tensor: sharing its memory where torch can, which it cannot with a read-only one."""
    whole = np.ascontiguousarray(array)
    return torch.from_numpy(whole) if whole.flags.writeable else torch.tensor(whole)
