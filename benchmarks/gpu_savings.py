"""What the default policy saves of a training on a GPU at equal accuracy: the comparison, several runs at a time.

First, for Fashion-MNIST, uniform's peak learning rate, on the validation part with seeds of its own; then ``autoassist
compare`` on the test part, a process a seed. The runs share the GPU and the host with each other, so their wall times
are no training's; those of ``--alone`` further seeds, run one after the other, are.

    python -m benchmarks.gpu_savings [--json FILE]
    python -m benchmarks.gpu_savings --workload rotated-mnist --model cnn --batch-size 64 --epochs 10
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
import tyro

from autoassist.cli import PARENT_VARIABLE
from autoassist.compare_result import RANDOM_DROP, UNIFORM, Cell, RunResult, make_cells, read_comparison
from benchmarks.common import machine, mean_sd, print_table
from benchmarks.gpu_workloads import CANDIDATES, Fashion01
from protocol.report import REPORT_FILE, read_report

DEFAULT = "autoassist"
CHOOSING_SEEDS = (701, 702)
BUDGETS = (1.0, 0.8, 0.6)
JUDGED = BUDGETS[-1]


@dataclass(frozen=True, kw_only=True)
class GpuSavings:
    """Settings of the benchmark."""

    workload: str = "fashion-mnist"
    """Built-in image workload. Only that of fashion-mnist is given a learning rate; others have their own."""

    model: str = "resnet20"
    """Boss."""

    epochs: int = 12
    """Of a full training."""

    batch_size: int = 512
    """Images per batch."""

    seeds: int = 8
    """How many, of the comparison."""

    first_seed: int = 301
    """The first of them."""

    alone: int = 1
    """Further seeds whose runs of uniform and the default have the machine to themselves."""

    jobs: int = 4
    """Runs at a time."""

    device: str = "cuda"
    """Where the Boss computes; cpu to try the script."""

    out: Path = Path("runs/gpu-savings")
    """Where the runs go."""

    json: Path | None = None
    """File for the sums and all runs, as ``compare.json`` has them."""

    only_report: bool = False
    """Run nothing; sum up what has finished."""

    @property
    def training(self) -> list[str]:
        """Words of every run's command line."""
        words = ["--model", self.model, "--epochs", str(self.epochs), "--device", self.device, "--threads", "1"]
        return words + (["--bf16"] if self.device == "cuda" else [])


def spec_of(candidate: type[Fashion01]) -> str:
    """As the command line names a workload."""
    return f"{candidate.__module__}:{candidate.__name__}"


def all_done(commands: Sequence[Sequence[str]], jobs: int, folder: Path) -> None:
    """Run ``autoassist`` with each, so many at a time; each has its log. Raises RuntimeError where one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid()), "OMP_NUM_THREADS": "1"}
    waiting, running = list(enumerate(commands)), list[tuple[int, subprocess.Popen[bytes]]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, words = waiting.pop(0)
                with (folder / f"{number}.log").open("wb") as log:
                    start = [sys.executable, "-m", "autoassist", *words]
                    running.append(
                        (number, subprocess.Popen(start, env=environment, stdout=log, stderr=subprocess.STDOUT))
                    )
            number, process = running.pop(0)  # the oldest; those beside it take about as long
            if process.wait():
                log_text = (folder / f"{number}.log").read_text(errors="replace")
                raise RuntimeError(f"autoassist {' '.join(commands[number])}: exit {process.returncode}\n{log_text}")
    finally:
        for _, process in running:
            process.terminate()
            process.wait()


def chosen_rate(settings: GpuSavings) -> str:
    """The workload whose learning rate is uniform's best on the validation part."""
    runs = [(candidate, seed) for candidate in CANDIDATES for seed in CHOOSING_SEEDS]
    names = [settings.out / "rate" / f"{candidate.__name__}-{seed}" for candidate, seed in runs]
    commands = [
        [
            *("run", spec_of(candidate), "--policy", UNIFORM, "--seed", str(seed), "--validation"),
            *("--batch-size", str(settings.batch_size), *settings.training, "--run-dir", str(name)),
        ]
        for (candidate, seed), name in zip(runs, names, strict=True)
        if not (name / REPORT_FILE).exists()
    ]
    all_done(commands, len(commands), settings.out / "rate-logs")
    found: dict[type[Fashion01], list[float]] = {}
    for (candidate, _), name in zip(runs, names, strict=True):
        metric = read_report(name).metric.value
        assert metric is not None
        found.setdefault(candidate, []).append(100 * metric)
    print("Uniform's peak learning rate, validation part:\n")
    print_table(["rate", "accuracy, %"], [[f"{c.peak_lr:g}", mean_sd(values)] for c, values in found.items()])
    best = max(found, key=lambda candidate: statistics.fmean(found[candidate]))
    print(f"\n{best.peak_lr:g} it is.\n", flush=True)
    return spec_of(best)


def compare(settings: GpuSavings, spec: str) -> None:
    """Run what is missing, a process a seed."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    commands = [
        [
            *("compare", spec, "--policies", UNIFORM, DEFAULT, RANDOM_DROP),
            *("--budgets", *map(str, BUDGETS), "--only", f"{RANDOM_DROP}={JUDGED}", f"{DEFAULT}={JUDGED}"),
            *("--seeds", "1", "--first-seed", str(seed), "--checkpoint-every", "0"),
            *("--set", f"batch_size={settings.batch_size}", *settings.training),
            *("--out", str(settings.out / f"seed-{seed}")),
        ]
        for seed in seeds
    ]
    all_done(commands, settings.jobs, settings.out / "logs")


def finished(settings: GpuSavings) -> list[RunResult]:
    """Of all runs that came to their end, whatever else was interrupted."""
    found = []
    for path in sorted(settings.out.glob(f"seed-*/*/{REPORT_FILE}")):
        report, (_, budget, _) = read_report(path.parent), path.parent.name.rsplit("-", 2)
        if report.status == "finished":
            found.append(RunResult.of(report, budget=float(budget), run_dir=path.parent.name))
    return found


def summed_up(runs: list[RunResult]) -> list[Cell]:
    """By policy and budget, over the seeds of which all of uniform and the default have finished; prints it, and of
    random-drop's runs what there are."""
    kinds = [(UNIFORM, budget) for budget in BUDGETS] + [(DEFAULT, JUDGED)]
    seeds = set.intersection(*({run.seed for run in runs if (run.policy, run.budget) == kind} for kind in kinds))
    dropped = [run for run in runs if run.policy == RANDOM_DROP and run.seed in seeds]
    kinds += [(RANDOM_DROP, JUDGED)] if {run.seed for run in dropped} == seeds else []
    kept = [run for run in runs if run.seed in seeds and (run.policy, run.budget) in kinds]
    cells = make_cells(kept, policies=[UNIFORM, DEFAULT, RANDOM_DROP], higher_is_better=True)
    print(f"Seeds {', '.join(map(str, sorted(seeds)))}; test accuracy; 95 % intervals:\n")
    header = ["policy", "passes", "accuracy, %", "kept", "passes saved, %", "against uniform with as many, points"]
    print_table(header, [row_of(cell) for cell in cells])
    if (RANDOM_DROP, JUDGED) not in kinds and dropped:
        values = ", ".join(f"{100 * run.metric:.2f} (seed {run.seed})" for run in dropped)
        print(f"\nrandom-drop with {JUDGED:g}, of some seeds alone: {values}")
    return cells


def row_of(cell: Cell) -> list[str]:
    """Of the table."""
    row = [cell.policy, f"{cell.budget:g}", f"{100 * cell.metric:.2f} ± {100 * (cell.metric_sd or 0.0):.2f}"]
    row.append(f"{cell.kept_fraction:.2f}")
    if cell.saving is None or cell.against_uniform is None:
        return [*row, "-", "-"]
    saved, against = cell.saving, cell.against_uniform
    interval = f"{percent(saved.value)} ({percent(saved.low)} … {percent(saved.high)})"
    return [*row, interval, f"{100 * against.value:+.2f} ± {100 * (against.reach or 0.0):.2f}"]


def percent(share: float | None) -> str:
    """None where uniform's curve is never crossed."""
    return "none" if share is None else f"{100 * share:.0f}"


def walls_alone(settings: GpuSavings, spec: str) -> None:
    """Wall time of the default with fewer passes against uniform with all, nothing else running; prints it."""
    first = settings.first_seed + settings.seeds
    out = settings.out / "alone"
    words = [
        *("compare", spec, "--policies", UNIFORM, DEFAULT, "--budgets", "1.0", f"{JUDGED}"),
        *("--only", f"{DEFAULT}={JUDGED}", "--seeds", str(settings.alone), "--first-seed", str(first)),
        *("--checkpoint-every", "0", "--set", f"batch_size={settings.batch_size}", *settings.training),
        *("--out", str(out)),
    ]
    all_done([words], 1, settings.out / "alone-logs")
    found = read_comparison(out)
    rows = [[cell.policy, f"{cell.budget:g}", f"{cell.wall_s:.1f}"] for cell in found.cells]
    print(f"Wall time with nothing beside it, seeds {first} to {first + settings.alone - 1}:\n")
    print_table(["policy", "passes", "wall, s"], rows)


def main(settings: GpuSavings) -> None:
    """Choose, compare, print."""
    began = time.monotonic()
    on = torch.cuda.get_device_name() if settings.device == "cuda" else "no GPU"
    print(f"{machine()}; {on}, torch {torch.__version__}")
    what = f"{settings.workload}, {settings.model}, {settings.epochs} epochs of batches of {settings.batch_size}"
    print(f"{what}, {settings.jobs} runs at a time\n", flush=True)
    spec = ""
    if not settings.only_report:
        spec = chosen_rate(settings) if settings.workload == "fashion-mnist" else settings.workload
        compare(settings, spec)
    runs = finished(settings)
    cells = summed_up(runs)
    if settings.json is not None:
        settings.json.write_bytes(msgspec.json.format(msgspec.json.encode({"cells": cells, "runs": runs}), indent=1))
    if settings.alone and spec:
        walls_alone(settings, spec)
    print(f"\nall of it took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(GpuSavings))
