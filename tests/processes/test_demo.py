"""What the demo shows: Fashion-MNIST through three processes, beside the full epoch at the same seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from protocol.report import Report, read_report
from tests.processes.roles import Role, export

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]
EPOCHS = 2
ALL = 60_000


def demo(run_dir: Path, *more: str) -> Report:
    """The demo's command, with an epoch less."""
    words = ("run", "fashion-mnist", "--epochs", str(EPOCHS), "--seed", "1", "--run-dir", str(run_dir), *more)
    words += ("--look-ahead", "auto")
    role = Role(*words)
    assert role.end(600.0) == 0, role.text
    report = read_report(run_dir)
    if report.n != ALL:
        pytest.skip("Fashion-MNIST cannot be fetched here; the demo fell back to a small set")
    return report


def test_the_demo_filters_without_a_wait_and_reaches_the_accuracy_of_the_full_epoch(tmp_path: Path) -> None:
    report, uniform = demo(tmp_path / "demo"), demo(tmp_path / "uniform", "--policy", "uniform")
    assert report.status == uniform.status == "finished"
    assert report.boss.exposed_wait_fraction <= 0.01
    assert sum(assistant.figures["instances_looked_at"] for assistant in report.assistants) > 0
    assert not (tmp_path / "demo" / "snapshot.pt").exists(), "of no use any more"
    stale = report.selection.staleness_steps
    assert stale.max is not None and stale.max <= stale.bound
    assert all(epoch.kept_fraction < 0.8 for epoch in report.selection.epochs[1:])
    assert report.metric.value is not None and uniform.metric.value is not None
    assert report.metric.value >= uniform.metric.value - 0.005
    offered = Counter((w["epoch"], i) for w in export(tmp_path / "demo", "windows") for i in w["ids"])
    assert len(offered) == EPOCHS * ALL and set(offered.values()) == {1}
