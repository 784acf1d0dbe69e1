"""``autoassist run adult``: a linear SVM as the Boss, filtered like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.report import read_report
from tests.processes.roles import Role

pytestmark = pytest.mark.processes


def test_a_linear_svm_trains_through_the_real_system(tmp_path: Path) -> None:
    """Where no source serves Adult, the set that scikit-learn ships stands in, and is as easy."""
    role = Role("run", "adult", "--epochs", "2", "--seed", "1", "--run-dir", str(tmp_path))
    assert role.end() == 0, role.text
    report = read_report(tmp_path)
    assert report.status == "finished" and report.selection.offered == 2 * report.n
    assert report.metric.name == "test_accuracy" and (report.metric.value or 0.0) > 0.83
