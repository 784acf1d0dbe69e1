"""What looking ahead brings and costs, in pairs of one seed through the real system: metric, and the Boss's time.

    python -m benchmarks.look_ahead_pairs [--workload rotated-mnist-noisy] [--passes 180000] [--seeds 981 982 ...]

Three runs a seed, one after the other: without looking ahead, with it, and with it while broker, Assistant and looking
go to whatever core they like (otherwise ``autoassist run`` keeps them off the Boss's). The validation part, which the
default was chosen by.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import machine, mean_sd, print_table
from protocol.cores import ASIDE_VARIABLE
from protocol.report import Report, read_report

WITHOUT, WITH, ANYWHERE = "without looking ahead", "**looking ahead**", "looking ahead, no cores kept free"
RUNS: dict[str, tuple[str, dict[str, str]]] = {
    WITHOUT: ("off", {}),
    WITH: ("on", {}),
    ANYWHERE: ("on", {ASIDE_VARIABLE: ""}),
}
"""For each: ``--look-ahead``, and the environment."""


@dataclass(frozen=True, kw_only=True)
class LookAheadPairs:
    """Settings of the benchmark."""

    workload: str = "rotated-mnist-noisy"
    """Workload of all runs."""

    passes: int = 180_000
    """Passes of each run."""

    seeds: tuple[int, ...] = (981, 982, 983, 984, 985, 986)
    """Seeds; all three runs are made with each."""


def run(settings: LookAheadPairs, name: str, seed: int) -> Report:
    """One run in processes of its own; returns its report."""
    look_ahead, environment = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = [sys.executable, "-m", "autoassist", "run", settings.workload, "--validation", "--no-live"]
        words += ["--boss-instances", str(settings.passes), "--seed", str(seed), "--look-ahead", look_ahead]
        words += ["--run-dir", str(run_dir)]
        subprocess.run(words, check=True, capture_output=True, timeout=3600, env={**os.environ, **environment})
        return read_report(run_dir)


def paired(values: list[float], form: str) -> str:
    """``mean ± standard error of the mean``."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):{form}} ± {error:{form.lstrip('+')}}"


def rows_of(reports: dict[str, list[Report]]) -> list[list[str]]:
    """A row for each kind of run, beside the one without looking ahead of the same seed."""
    rows = []
    for name, found in reports.items():
        metrics = [100 * (report.metric.value or 0.0) for report in found]
        looked = [sum(a.figures.get("instances_looked_at", 0.0) for a in r.assistants) for r in found]
        shares = [count / report.selection.offered for count, report in zip(looked, found, strict=True)]
        pairs = list(zip(found, reports[WITHOUT], strict=True))
        gains = [100 * ((one.metric.value or 0.0) - (other.metric.value or 0.0)) for one, other in pairs]
        times = [one.boss.wall_s / other.boss.wall_s for one, other in pairs]
        beside = ["-", "-"] if name == WITHOUT else [paired(gains, "+.3f"), paired(times, ".3f")]
        rows.append([name, mean_sd(metrics), *beside, mean_sd(shares)])
    return rows


def main(settings: LookAheadPairs) -> None:
    """Measure and print."""
    print(machine())
    print(f"{settings.workload}, {settings.passes} passes, seeds {', '.join(map(str, settings.seeds))}\n")
    reports: dict[str, list[Report]] = {name: [] for name in RUNS}
    for seed in settings.seeds:
        for name in RUNS:
            reports[name].append(run(settings, name, seed))
    print_table(
        ("run", "metric, %", "more than without, points", "Boss wall time : without", "looked at : offered"),
        rows_of(reports),
    )
    print("\nMean ± s.d.; differences and ratios: mean of the pairs ± standard error.")


if __name__ == "__main__":
    main(tyro.cli(LookAheadPairs))
