"""Fashion-MNIST through the real system: the default policy beside the full epoch and beside random-drop.

Each run is three processes on this machine. random-drop is given the pass rate that the default policy had at the same
seed, so both train as many instances. Wall time is the Boss's own, evaluation excluded.

    python -m benchmarks.first_table
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import machine, mean_sd, print_table
from protocol.report import Report, read_report
from protocol.settings import RunSettings

ANNEAL_FROM = 7 / 8


@dataclass(frozen=True, kw_only=True)
class FirstTable:
    """Settings of the benchmark."""

    workload: str = "fashion-mnist"
    """Workload of all runs."""

    epochs: int = 3
    """Epochs offered to each."""

    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds; every policy runs with each."""


def run(settings: FirstTable, policy: str, seed: int, *extra: str) -> Report:
    """One run in processes of its own; returns its report."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = [sys.executable, "-m", "autoassist", "run", settings.workload, "--policy", policy, "--no-live"]
        words += ["--epochs", str(settings.epochs), "--seed", str(seed), "--run-dir", str(run_dir), *extra]
        subprocess.run(words, check=True, capture_output=True, timeout=3600)
        return read_report(run_dir)


def paired_drop_rate(settings: FirstTable, report: Report) -> float:
    """Drop rate with which random-drop trains as many instances as ``report`` did."""
    filtered = (ANNEAL_FROM * settings.epochs - RunSettings(policy="random-drop").warmup) * report.n
    return max(0.0, min(0.95, (settings.epochs * report.n - report.boss.instances) / filtered))


def main(settings: FirstTable) -> None:
    """Measure and print."""
    print(machine())
    print(f"{settings.workload}, {settings.epochs} epochs, seeds {', '.join(map(str, settings.seeds))}\n")
    reports: dict[str, list[Report]] = {"uniform": [], "random-drop": [], "autoassist": []}
    for seed in settings.seeds:
        reports["uniform"].append(run(settings, "uniform", seed))
        reports["autoassist"].append(run(settings, "autoassist", seed))
        drop_rate = paired_drop_rate(settings, reports["autoassist"][-1])
        reports["random-drop"].append(run(settings, "random-drop", seed, "--drop-rate", f"{drop_rate:.4f}"))
    rows = []
    for policy, found in reports.items():
        accuracy = [100 * (r.metric.value or 0.0) for r in found]
        passes = [r.boss.instances / u.boss.instances for r, u in zip(found, reports["uniform"], strict=True)]
        wall = [r.boss.wall_s / u.boss.wall_s for r, u in zip(found, reports["uniform"], strict=True)]
        waits = [100 * r.boss.exposed_wait_fraction for r in found]
        stale = max((r.selection.staleness_steps.max or 0 for r in found), default=0)
        rows.append(
            [
                policy,
                mean_sd(accuracy),
                mean_sd(passes),
                mean_sd(wall),
                f"{max(waits):.2f}",
                "-" if policy == "uniform" else str(stale),
            ]
        )
    header = ["policy", "test accuracy, %", "Boss passes : uniform", "Boss wall time : uniform"]
    print_table([*header, "exposed wait, % (worst)", "staleness, steps (worst)"], rows)


if __name__ == "__main__":
    main(tyro.cli(FirstTable))
