"""Irreducible losses: each by a model that has not seen the instance; high where the label is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from workloads.digits import Digits
from workloads.irreducible import irreducible_losses


class Watched(Digits):
    """Digits with every tenth label wrong; notes who is trained and who is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[set[int]] = []
        self.scored: list[set[int]] = []

    def boss(self) -> torch.nn.Module:
        self.trained.append(set())
        self.scored.append(set())
        return super().boss()

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        inputs, targets = super().batch(ids)
        (self.trained if torch.is_grad_enabled() else self.scored)[-1].update(ids)
        wrong = torch.tensor(ids) % 10 == 0
        return inputs, torch.where(wrong, (targets + 1) % 10, targets)


@pytest.fixture(scope="module")
def watched() -> tuple[Watched, np.ndarray]:
    workload = Watched()
    return workload, irreducible_losses(workload, epochs=4, batch_size=32, seed=1)


def test_each_instance_is_scored_once_by_the_model_that_was_not_trained_on_it(
    watched: tuple[Watched, np.ndarray],
) -> None:
    workload, losses = watched
    n = workload.fingerprint().n
    assert losses.shape == (n,) and np.isfinite(losses).all()
    (first, second), (first_scored, second_scored) = workload.trained, workload.scored
    assert first == second_scored and second == first_scored
    assert first | second == set(range(n)) and not first & second


def test_wrong_labels_have_irreducible_losses(watched: tuple[Watched, np.ndarray]) -> None:
    losses = watched[1]
    is_wrong = np.arange(len(losses)) % 10 == 0
    assert np.median(losses[is_wrong]) > 5 * np.median(losses[~is_wrong])


def test_the_same_seed_gives_the_same_losses_and_leaves_torch_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (irreducible_losses(Digits(), epochs=1, batch_size=64, seed=2) for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    output = tmp_path / "sub" / "losses.npy"
    words = [sys.executable, "-m", "workloads.irreducible", "digits", "--epochs", "1", "--output", str(output)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert np.load(output).shape == (1442,)


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "workloads.irreducible", "digits", "--output", str(tmp_path / "losses.csv")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "losses.csv: must end in .npy" in done.stderr
