"""A table of the user's own: an MLP learns one column of a CSV or Parquet file from the others."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from protocol.errors import DataError, SettingError, WorkloadError
from workloads.base import Fingerprint, Metric, Workload
from workloads.table_coding import Scale, encode, log, require_one_kind, target_of, validation_part
from workloads.table_files import Columns, read_table
from workloads.table_numbers import is_missing

CODING_VERSION = 3
"""Part of the fingerprint; raise it whenever the same file would give other features."""

DEFAULT_WIDTHS = (128, 64)
_MODEL = re.compile(r"mlp((?:-[1-9]\d{0,4})*)")
_EVALUATION_BATCH = 4096


@dataclass(frozen=True)
class CodedTable:
    """The table as the Boss sees it, split into training and validation."""

    fingerprint: Fingerprint
    train_features: NDArray[np.float32]
    """Shape ``(n, d)``, read-only."""
    train_targets: NDArray[np.int64] | NDArray[np.float64]
    """Class indices, or the quantity as it is in the file; shape ``(n,)``, read-only."""
    validation_features: NDArray[np.float32]
    validation_targets: NDArray[np.int64] | NDArray[np.float64]
    classes: tuple[str, ...]
    """Names of the classes; none for a quantity."""


class Table(Workload):
    """``--data FILE --label COLUMN``: cross entropy for a label of few values, squared error for a numeric one.

    Rows without a label are left out. A fifth of the rows, always the same, is for validation. The fingerprint follows
    from the file's content and the label, so that no role joins with another file.
    """

    name = "table"

    def __init__(
        self, *, model: str = "", data_dir: Path | None = None, data: Path | None = None, label: str = ""
    ) -> None:
        """Raises SettingError for a ``data_dir``, WorkloadError for a model that is no MLP."""
        super().__init__(model=model, data_dir=data_dir)
        if data_dir is not None:
            raise SettingError(f"data_dir={data_dir}: {self.name} reads one file; give --data FILE instead")
        self.widths = _widths(model)
        self.data = data
        self.label = label

    @cached_property
    def table(self) -> CodedTable:
        """The table, read on first use; DataError or SettingError, naming file and column, if there is none."""
        if self.data is None:
            raise SettingError(f"data is missing; {self.name} needs --data FILE (CSV or Parquet) and --label COLUMN")
        content, columns = read_table(self.data)
        return _coded(content, columns, label=self.label, where=f"--data {self.data}")

    def fingerprint(self) -> Fingerprint:
        """Hash of the file's content and the label's name, and the number of training rows."""
        return self.table.fingerprint

    @cached_property
    def _scale(self) -> Scale:
        """What a quantity is standardised by."""
        return Scale.of(self.table.train_targets.astype(np.float64, copy=False))

    @cached_property
    def _train(self) -> tuple[Tensor, Tensor]:
        table = self.table
        targets = torch.tensor(table.train_targets)
        if not table.classes:
            targets = torch.tensor(self._scale.standard(table.train_targets.astype(np.float64, copy=False))).float()
        return torch.tensor(table.train_features), targets

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features ``(len(ids), d)`` float32, and class indices int64 or the standardised quantity float32."""
        rows = torch.tensor(np.asarray(ids, dtype=np.int64))
        features, targets = self._train
        return features.index_select(0, rows), targets.index_select(0, rows)

    def boss(self) -> nn.Module:
        """An MLP without dropout and batch norm, so that a loss depends on its own instance alone."""
        layers: list[nn.Module] = []
        width = self.table.train_features.shape[1]
        for next_width in self.widths:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            width = next_width
        return nn.Sequential(*layers, nn.Linear(width, len(self.table.classes) or 1))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, or the squared error in the label's standard deviations; shape ``(batch,)``."""
        if self.table.classes:
            return F.cross_entropy(outputs, targets, reduction="none")
        return (outputs.squeeze(1) - targets).square()

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        """AdamW: one rate serves tables of any width."""
        return torch.optim.AdamW(boss.parameters(), lr=2e-3, weight_decay=1e-2)

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """Accuracy on the validation rows, or the root of the mean squared error in the label's own unit."""
        table = self.table
        features = torch.tensor(table.validation_features)
        with torch.no_grad():
            outputs = torch.cat([boss(part.to(device)).cpu() for part in torch.split(features, _EVALUATION_BATCH)])
        targets = torch.tensor(table.validation_targets)
        if table.classes:
            return Metric("validation_accuracy", float((outputs.argmax(dim=1) == targets).double().mean()))
        scale = self._scale
        errors = (outputs.squeeze(1).double() * scale.deviation + scale.mean) * scale.largest - targets
        # hypot: the squares of very small errors would be none.
        root = math.hypot(*errors.tolist()) / math.sqrt(len(errors))
        return Metric("validation_rmse", root, higher_is_better=False)

    def features(self) -> NDArray[np.float32]:
        """The Boss's own inputs, shape ``(n, d)``, read-only."""
        return self.table.train_features

    def labels(self) -> NDArray[np.int64] | None:
        """Class of each training row, read-only; None where the label is a quantity."""
        targets = self.table.train_targets
        return targets.astype(np.int64, copy=False) if self.table.classes else None


def _widths(model: str) -> tuple[int, ...]:
    if model in ("", "mlp"):
        return DEFAULT_WIDTHS
    match = _MODEL.fullmatch(model)
    if match is None:
        raise WorkloadError(f"model {model!r} is unknown; use mlp, or with the widths of its layers, mlp-256-128")
    return tuple(int(width) for width in match.group(1).split("-")[1:])


def _coded(content: bytes, columns: Columns, *, label: str, where: str) -> CodedTable:
    _require_column(columns, label, where)
    require_one_kind(columns[label], f"{where}: column {label!r}")
    rows = np.flatnonzero(~is_missing(columns[label]))
    if len(rows) < len(columns[label]):
        log.warning("%s: %d rows without %r are left out", where, len(columns[label]) - len(rows), label)
        columns = {name: [values[i] for i in rows] for name, values in columns.items()}
    target = target_of(columns[label], f"{where}: column {label!r}", rows.tolist())
    log.info("%s: label %r: %s", where, label, f"{len(target.classes)} classes" if target.classes else "a quantity")
    held_out = validation_part(target)
    inputs = {name: values for name, values in columns.items() if name != label}
    features = encode(inputs, ~held_out, where, rows.tolist())
    for array in (train := (features[~held_out], target.values[~held_out])):
        array.flags.writeable = False
    digest = hashlib.sha256(hashlib.sha256(content).digest() + f"{CODING_VERSION} {label}".encode())
    return CodedTable(
        fingerprint=Fingerprint(f"table-train:{digest.hexdigest()[:16]}", len(train[1])),
        train_features=train[0],
        train_targets=train[1],
        validation_features=features[held_out],
        validation_targets=target.values[held_out],
        classes=target.classes,
    )


def _require_column(columns: Columns, label: str, where: str) -> None:
    names = list(columns)
    listed = ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    if not label:
        raise SettingError(f"label is missing; give --label one of the columns of {where}: {listed}")
    if label not in columns:
        near = difflib.get_close_matches(label, names, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"{where}: no column {label!r}; {hint}its columns are {listed}")
