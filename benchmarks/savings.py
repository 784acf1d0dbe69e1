r"""What each policy saves at equal metric, on five workloads, through the real system: the comparison, five times.

    python -m benchmarks.savings                       # goes on where it was interrupted
    python -m benchmarks.savings --workloads mnist     # one of them; the table has all that are complete
    python -m benchmarks.savings --only-report         # runs nothing
    python -m benchmarks.savings --policies uniform random-drop autoassist --keep-others   # one policy has changed
    python -m benchmarks.savings --policies uniform autoassist --keep-others --look-ahead off --out runs/without \
        --uniform-of runs/savings

Per workload and seed: uniform, random-drop and autoassist at four budgets, the published policies and the oracle at 0.6
of the passes. A full training is three hundred thousand passes (a third of that for the small set), so that all of it
takes less than two hours on two cores; warm-up, anneal and all else are the defaults. Nothing was tuned on the
seeds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from autoassist.cli import PARENT_VARIABLE
from autoassist.compare_plot import can_plot
from autoassist.compare_result import UNIFORM, Comparison, read_comparison
from benchmarks.common import machine
from benchmarks.savings_report import (
    NOT_LOOKING_AHEAD,
    PLOT_FILE,
    RESULT_FILE,
    as_not_looking_ahead,
    curves_of,
    merged,
    plot_rows,
    print_rows,
    read_rows,
    rows_of,
    trained_otherwise,
    with_shares,
    write_rows,
)
from protocol.errors import DataError
from protocol.report import REPORT_FILE, read_report

EPOCHS = {
    "fashion-mnist": 5,
    "mnist": 5,
    "rotated-mnist": 5,
    "rotated-mnist-noisy": 5,
    "imbalanced-fashion-mnist": 12,
}
"""Epochs of the full training: 300,000 passes, and 104,400 of the small set. With 174,000 of it uniform ends where it
does with 0.6 of them (``benchmarks.stale_weights``): such a training is longer than it need be, and whoever leaves out
anything, even at random, saves passes."""
POLICIES = (
    *("uniform", "random-drop", "autoassist"),
    *("autoassist-paper", "infobatch", "selective-backprop", "rho", "importance", "oracle"),
)
ALL_BUDGETS = POLICIES[:3]
ORDER = (*ALL_BUDGETS, NOT_LOOKING_AHEAD, *POLICIES[3:])
BUDGETS = (1.0, 0.8, 0.6, 0.4)
JUDGED = 0.6
STOPPED = 128
"""Exit codes from here on are signals."""


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Settings of the benchmark."""

    workloads: tuple[str, ...] = tuple(EPOCHS)
    """Workloads to run; those with an epoch count of their own here, or any other with --epochs."""

    seeds: int = 3
    """How many seeds."""

    first_seed: int = 201
    """The first of them; the others follow it."""

    epochs: int = 0
    """Epochs of every full training; 0 for each workload's own."""

    policies: tuple[str, ...] = POLICIES
    """Policies; all but uniform, random-drop and autoassist run at 0.6 of the passes alone."""

    options: tuple[str, ...] = ()
    """Settings for all runs or one policy's, as `autoassist compare --set` takes them."""

    out: Path = Path("runs/savings")
    """Where the runs go; a comparison's directory for each workload."""

    results: Path = Path("docs/results")
    """Where savings.json and savings.png go."""

    judged_only: bool = False
    """Random-drop and autoassist at 0.6 of the passes alone too: half the time, and no curve of theirs."""

    look_ahead: Literal["on", "off"] = "on"
    """Whether runs of autoassist look ahead, whatever the machine. Rows of those that do not have a name of their own,
    and with keep_others they are all that is added."""

    uniform_of: Path | None = None
    """An --out whose runs of uniform are taken instead of new ones: those of the same seeds, lately run on the same
    machine."""

    keep_others: bool = False
    """Leave the rows in savings.json of what is not run this time, policies and workloads, as they are."""

    only_report: bool = False
    """Run nothing; write what the complete workloads say."""

    def epochs_of(self, workload: str) -> int:
        """Of its full training."""
        return self.epochs or EPOCHS.get(workload, 5)


def words_of(settings: Savings, workload: str) -> list[str]:
    """``autoassist compare`` for one workload."""
    everywhere = ALL_BUDGETS[:1] if settings.judged_only else ALL_BUDGETS
    only = [f"{policy}={JUDGED}" for policy in settings.policies if policy not in everywhere]
    options = list(settings.options)
    if "rho" in settings.policies:
        options.append(f"rho:irreducible_losses={irreducible_file(settings, workload).absolute()}")
    return [
        *("compare", workload, "--policies", *settings.policies),
        *("--budgets", *map(str, BUDGETS)),
        *(("--only", *only) if only else ()),
        *("--seeds", str(settings.seeds), "--first-seed", str(settings.first_seed)),
        *("--epochs", str(settings.epochs_of(workload))),
        *("--look-ahead", settings.look_ahead),
        *(("--set", *options) if options else ()),
        *("--out", str(settings.out / workload)),
    ]


def irreducible_file(settings: Savings, workload: str) -> Path:
    """Losses that the policy rho needs, made once."""
    return settings.out / "irreducible" / f"{workload}.npy"


def run(settings: Savings, workload: str) -> int:
    """What is missing of one workload; returns the exit code."""
    file = irreducible_file(settings, workload)
    if "rho" in settings.policies and not file.exists():
        part = file.with_suffix(".part.npy")
        code = call("-m", "workloads.irreducible", workload, "--output", str(part))
        if code:
            return code
        part.replace(file)
    note_machine(settings.out / workload)
    if settings.uniform_of is not None:
        lend(settings.uniform_of / workload, settings.out / workload)
    return call("-m", "autoassist", *words_of(settings, workload))


def lend(theirs: Path, ours: Path) -> None:
    """Copies of uniform's finished runs, where ours has none of that name; ``compare`` checks whether they fit."""
    for report in theirs.glob(f"{UNIFORM}-*/{REPORT_FILE}"):
        run_dir = report.parent
        if not (ours / run_dir.name).exists():
            part = ours / f"{run_dir.name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(run_dir, part)
            part.rename(ours / run_dir.name)


def call(*words: str) -> int:
    """A Python process that ends with this one; returns its exit code, 128 + the signal's number where one ended it."""
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen([sys.executable, *words], env=environment)
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else STOPPED - code
        except KeyboardInterrupt:  # it has got the same signal, and ends in order
            continue


def note_machine(folder: Path) -> None:
    """Where the figures come from, with the load before the first run."""
    path = folder / "machine.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), "load": round(os.getloadavg()[0], 2)}))


def complete(settings: Savings, workload: str) -> Comparison | None:
    """The workload's comparison, where it has been run to its end with these settings."""
    try:
        found = read_comparison(settings.out / workload)
    except DataError:
        return None
    seeds = list(range(settings.first_seed, settings.first_seed + settings.seeds))
    wanted = (list(settings.policies), seeds, sorted(BUDGETS, reverse=True), settings.epochs_of(workload))
    return found if (found.policies, found.seeds, found.budgets, found.epochs) == wanted else None


def provenance(settings: Savings, found: Comparison) -> dict[str, Any]:
    """Machine, load and versions of a workload's runs."""
    folder = settings.out / found.workload
    try:
        facts: dict[str, Any] = json.loads((folder / "machine.json").read_text())
    except (OSError, ValueError):
        facts = {"machine": "unknown", "load": None}
    report = read_report(folder / found.runs[-1].run_dir)  # the first are uniform's, which may be lent
    return {**facts, "versions": report.versions, "dataset_id": report.dataset_id}


def conclude(settings: Savings) -> list[str]:
    """Write what is complete; returns what is not."""
    names = list(dict.fromkeys([*(EPOCHS if not settings.epochs else ()), *settings.workloads]))
    found = {name: complete(settings, name) for name in names}
    missing = [name for name, comparison in found.items() if comparison is None]
    done = [comparison for comparison in found.values() if comparison is not None]
    rows = [row for comparison in done for row in rows_of(comparison, provenance(settings, comparison))]
    if not rows:
        print(f"nothing is complete in {settings.out}: {', '.join(missing)}")
        return missing
    curves = [row for comparison in done for row in curves_of(comparison)]
    if settings.look_ahead == "off":
        rows, curves = (as_not_looking_ahead(found, alone=settings.keep_others) for found in (rows, curves))
    epochs = {name: settings.epochs_of(name) for name in names}
    path = settings.results / RESULT_FILE
    if settings.keep_others:
        others, other_curves = read_rows(path)
        gone = trained_otherwise(rows, others)
        others, other_curves = ([row for row in old if row["workload"] not in gone] for old in (others, other_curves))
        rows = with_shares(merged(rows, others, ORDER))
        curves = merged(curves, other_curves, ORDER)
        missing = [name for name in missing if all(row["workload"] != name for row in rows)]
    write_rows(path, rows, curves, missing, budget=JUDGED, epochs=epochs, options=list(settings.options))
    print_rows(rows, missing)
    print(f"rows: {path}")
    if can_plot():
        plot_rows(settings.results / PLOT_FILE, rows)
        print(f"plot: {settings.results / PLOT_FILE}")
    return missing


def main(settings: Savings) -> int:
    """Run what is missing, workload by workload, and write what is complete after each."""
    if settings.only_report:
        conclude(settings)
        return 0
    failed = 0
    for number, workload in enumerate(settings.workloads):
        print(f"\n== {workload}: workload {number + 1} of {len(settings.workloads)}", flush=True)
        code = run(settings, workload)
        if code >= STOPPED:
            conclude(settings)
            print("stopped; the same command goes on")
            return code
        if code:
            print(f"{workload} failed with code {code}; the others go on, the same command tries it again", flush=True)
            failed = failed or code
            continue
        conclude(settings)
    return failed


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Savings)))
