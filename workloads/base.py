"""The one interface between AutoAssist and what is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from protocol.sparse import Features

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Fingerprint:
    """What two roles compare to be sure that they speak of the same instances."""

    dataset_id: str
    """Name and content hash, for example ``fashion-mnist-train:8a1f0c…``."""

    n: int
    """Number of training instances; IDs are ``0 … n-1``."""


@dataclass(frozen=True)
class Metric:
    """One evaluation of the Boss on held-out data."""

    name: str
    """For example ``test_accuracy``."""

    value: float
    """In the metric's own unit; accuracy is a fraction, 0 … 1."""

    higher_is_better: bool = True
    """Whether a larger value is a better model."""


@dataclass(frozen=True)
class FallBack:
    """A packaged small set that stands in for another, which no source could serve."""

    wanted: str
    """Name of the set that was asked for."""

    served: str
    """Name of the set that stands in."""


class Workload(ABC):
    """A data set, a Boss model, a per-instance loss, an evaluation, and features for the Assistant.

    Subclass it, implement the abstract methods, and pass ``package.module:ClassName`` or ``path/to/file.py:ClassName``
    where a built-in name goes. The constructor is called with ``model`` (the ``--model`` value, "" for the default) and
    ``data_dir`` (the ``--data-dir`` value or None), both by keyword; it must be cheap: load data on first use.
    """

    name: str = "workload"

    def __init__(self, *, model: str = "", data_dir: Path | None = None) -> None:
        self.model = model
        self.data_dir = data_dir

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Identity and size of the training set; the same on every host that has the same data."""

    @abstractmethod
    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and targets of training instances, first dimension ``len(ids)``, in the order of ``ids``."""

    @abstractmethod
    def boss(self) -> nn.Module:
        """A freshly initialised Boss; the caller has seeded torch."""

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Per-instance loss, shape ``(batch,)``, unreduced, with gradient."""

    @abstractmethod
    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """Evaluate on held-out data; the caller has put the Boss into ``eval()`` and off gradients."""

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        """Optimizer for the Boss; its ``lr`` is the peak of the schedule."""
        from torch.optim import SGD

        return SGD(boss.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def lr_factor(self, progress: float) -> float:
        """Learning rate as a fraction of its peak at ``progress`` (0 … 1 of the budget): 5 % warm-up, then cosine to 0.

        It runs on progress and not on steps, so that a filtered run, which has fewer steps, decays fully.
        """
        warmup = 0.05
        if progress < warmup:
            return 0.1 + 0.9 * progress / warmup
        return 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, (progress - warmup) / (1.0 - warmup)))))

    @property
    def fall_back(self) -> FallBack | None:
        """What stands in for the data that was asked for; None where that is what is served. Loads the data."""
        return None

    def features(self) -> Features | None:
        """Assistant features, shape ``(n, d)`` float32, usually a read-only memory map; None if there are none.

        `SparseRows` where most of a row is zero, as with words.

        Without features the Assistant runs on labels and loss history alone.
        """
        return None

    def labels(self) -> NDArray[np.int64] | None:
        """Class of each training instance, shape ``(n,)``, values ``0 … classes-1``; None if there are none."""
        return None

    def preview(self, instance_id: int) -> NDArray[np.uint8] | str | None:
        """What a person sees of a training instance: pixels of shape (h, w) or (h, w, 3), or a text; None for nothing.

        The run's page shows it. By default the input that ``batch`` gives, where it has the shape of an image.
        """
        inputs, _ = self.batch([instance_id])
        image = inputs[0].detach().float()
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            return None
        low, high = image.min(), image.max()
        pixels = ((image - low) / (high - low).clamp(min=1e-12) * 255).byte().permute(1, 2, 0).numpy()
        return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels

    def lengths(self) -> NDArray[np.int64] | None:
        """Length of each training instance in tokens, shape ``(n,)``; None where every instance costs the same.

        With ``--max-tokens`` batches are cut by them: it is what an instance takes in a padded batch.
        """
        return None

    def token_counts(self, targets: Tensor) -> Tensor | None:
        """Of how many tokens each of ``losses`` is the mean, shape ``(batch,)``; None where each instance counts alike.

        With them the Boss trains on the mean over all tokens of a step.
        """
        del targets
        return None
