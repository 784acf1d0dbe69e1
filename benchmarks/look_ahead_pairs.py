"""What looking ahead brings and costs, in runs of one seed through the real system: metric, and the Boss's time.

    python -m benchmarks.look_ahead_pairs [--workload rotated-mnist-noisy] [--passes 180000] [--seeds 981 982 ...]

Four runs a seed, each seed beginning with another of them: with and without looking ahead, and each of the two while
broker, Assistant and looking go to whatever core they like (``autoassist run`` keeps them off the Boss's). The
validation part, which the default was chosen by.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import machine, mean_sd, print_table
from protocol.cores import ASIDE_VARIABLE
from protocol.report import Report, read_report

WITHOUT = "not looking ahead"
ANYWHERE = {ASIDE_VARIABLE: ""}
RUNS: dict[str, tuple[str, dict[str, str]]] = {
    WITHOUT: ("off", {}),
    "**looking ahead**": ("on", {}),
    "not looking ahead, no core kept free": ("off", ANYWHERE),
    "looking ahead, no core kept free": ("on", ANYWHERE),
}
"""For each: ``--look-ahead``, and what is said in the environment."""


@dataclass(frozen=True, kw_only=True)
class LookAheadPairs:
    """Settings of the benchmark."""

    workload: str = "rotated-mnist-noisy"
    """Workload of all runs."""

    passes: int = 180_000
    """Passes of each run."""

    seeds: tuple[int, ...] = (981, 982, 983, 984, 985, 986)
    """Seeds; all four runs are made with each."""


def run(settings: LookAheadPairs, name: str, seed: int) -> Report:
    """One run in processes of its own; returns its report."""
    look_ahead, said = RUNS[name]
    environment = {key: value for key, value in os.environ.items() if key != ASIDE_VARIABLE}
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = [sys.executable, "-m", "autoassist", "run", settings.workload, "--validation", "--no-live"]
        words += ["--boss-instances", str(settings.passes), "--seed", str(seed), "--look-ahead", look_ahead]
        words += ["--run-dir", str(run_dir)]
        done = subprocess.run(words, check=False, capture_output=True, timeout=3600, env=environment | said, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return read_report(run_dir)


def paired(values: Sequence[float], form: str) -> str:
    """``mean ± standard error of the mean``."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} ± {error:{form.lstrip('+')}}"


def rows_of(reports: Mapping[str, Sequence[Report]]) -> list[list[str]]:
    """A row for each kind of run, beside the one of the same seed that does not look ahead."""
    rows = []
    for name, found in reports.items():
        metrics = [100 * (report.metric.value or 0.0) for report in found]
        looked = [sum(one.figures.get("instances_looked_at") or 0.0 for one in report.assistants) for report in found]
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
    names = list(RUNS)
    reports: dict[str, list[Report]] = {name: [] for name in names}
    for number, seed in enumerate(settings.seeds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            reports[name].append(run(settings, name, seed))
    header = ("run", "metric, %", f"more than {WITHOUT}, points", f"Boss wall time : {WITHOUT}", "looked at : offered")
    print_table(header, rows_of(reports))
    print("\nMean ± s.d.; differences and ratios: mean over the pairs of one seed ± its standard error.")


if __name__ == "__main__":
    main(tyro.cli(LookAheadPairs))
