"""A policy that knows nothing trains the full epoch, by itself, through the real system."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.report import read_report
from tests.processes.roles import HERE, Role

pytestmark = pytest.mark.processes


def kept_fractions(folder: Path, name: str, *words: str) -> list[float]:
    """Kept fraction of each epoch of a deterministic run of a useless workload."""
    workload = f"{HERE / 'useless_digits.py'}:{name}"
    words = ("--epochs", "6", "--anneal-share", "0", "--deterministic", *words)
    run = Role("run", workload, "--run-dir", str(folder), *words)
    assert run.end() == 0, run.text
    report = read_report(folder)
    assert report.assistants[0].figures["instances_scored"] is not None
    return [epoch.kept_fraction for epoch in report.selection.epochs]


def test_the_default_on_losses_that_were_permuted_among_the_instances_shrinks_nothing(tmp_path: Path) -> None:
    fractions = kept_fractions(tmp_path, "PermutedLosses", "--policy", "autoassist")
    assert fractions[-1] == 1.0 and sum(fractions) / len(fractions) > 0.97


def test_the_authors_rule_on_random_features_shrinks_nothing_and_would_without_its_gate(tmp_path: Path) -> None:
    fractions = kept_fractions(tmp_path / "gated", "RandomFeatures", "--policy", "autoassist-paper")
    assert fractions[-1] == 1.0 and sum(fractions) / len(fractions) > 0.97
    bare = kept_fractions(tmp_path / "bare", "RandomFeatures", "--policy", "autoassist-paper", "--no-gate")
    assert bare[3] < 0.9
