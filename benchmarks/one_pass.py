"""Data seen once: no instance has a history, so only a model of what an instance looks like can select.

Two tables for each workload, on the validation part held out of the training set: nothing is tuned on a test set.

* **Predictors.** A plain run of one epoch in this process; each predictor learns from its losses with the delay of a
  pipeline, and scores each batch before the Boss trains it. AUC is that of telling the upper 0.3 of the losses, by
  groups of 40 steps from a tenth of the epoch on; the share is the part of all loss that the upper 0.6 of the scores
  hold.
* **Policies.** Runs of the real system, one epoch, selection from a tenth of the epoch on. Uniform at a budget trains
  as much of the data as fits, its learning rate decayed; random-drop has the pass rate that the default policy had at
  the same seed.

    python -m benchmarks.one_pass
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from assistant.estimates import RunningQuantile
from benchmarks.common import machine, mean_sd, print_table
from benchmarks.one_pass_predictors import PREDICTORS, Predictor
from protocol.arrays import F32
from protocol.report import Report, read_report
from protocol.settings import RunSettings
from workloads import Workload, load_workload

BATCH = 64
DELAY = 16
"""Steps between a batch's scoring and the youngest loss that its score knows of."""
GROUP = 40
HARD = 0.3
KEPT = 0.6
WARMUP = 0.1


@dataclass(frozen=True, kw_only=True)
class OnePass:
    """Settings of the benchmark."""

    workloads: tuple[str, ...] = ("fashion-mnist", "rotated-mnist")
    """Image workloads."""

    seeds: tuple[int, ...] = (1, 2)
    """Seeds; everything runs with each."""

    budgets: tuple[float, ...] = (1.0, 0.8, 0.6)
    """Shares of the data that uniform trains."""

    parts: tuple[str, ...] = ("predictors", "policies")
    """Which tables."""


@dataclass(frozen=True)
class Trace:
    """What a Boss lost on each instance when it came to it."""

    ids: NDArray[np.int64]
    """Shape ``(steps, 64)``."""
    losses: F32
    """The same shape."""


def train_once(workload: Workload, seed: int) -> Trace:
    """One plain epoch."""
    torch.manual_seed(seed)
    boss, n = workload.boss(), workload.fingerprint().n
    optimizer = workload.optimizer(boss)
    peak_lr = optimizer.param_groups[0]["lr"]
    order = np.random.default_rng(seed).permutation(n)[: n // BATCH * BATCH].reshape(-1, BATCH)
    losses = np.zeros(order.shape, dtype=np.float32)
    for step, ids in enumerate(order):
        optimizer.param_groups[0]["lr"] = peak_lr * workload.lr_factor(step / len(order))
        inputs, targets = workload.batch(ids.tolist())
        lost = workload.losses(boss(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        lost.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[step] = lost.detach().numpy()
    return Trace(order, losses)


def auc(scores: F32, is_hard: NDArray[np.bool_]) -> float:
    """The chance that a hard instance has a higher score than another one."""
    ranks = np.argsort(np.argsort(scores))
    hard = int(is_hard.sum())
    return float((ranks[is_hard].sum() - hard * (hard - 1) / 2) / (hard * (len(scores) - hard)))


def judged(predictor: Predictor, trace: Trace) -> tuple[float, float, float, float]:
    """AUC, share of the loss in the upper 0.6, µs an instance to score and to learn."""
    threshold, seconds = RunningQuantile(1.0 - HARD), np.zeros(2)
    scores = np.zeros_like(trace.losses)
    for step, ids in enumerate(trace.ids):
        if step >= DELAY:
            losses = trace.losses[step - DELAY]
            threshold.add(losses, np.ones(BATCH, dtype=np.float32))
            began = time.perf_counter()
            predictor.learn(trace.ids[step - DELAY], losses, threshold.value)
            seconds[1] += time.perf_counter() - began
        began = time.perf_counter()
        scores[step] = predictor.score(ids)
        seconds[0] += time.perf_counter() - began
    found = []
    for start in range(int(WARMUP * len(scores)), len(scores) - GROUP + 1, GROUP):
        score, loss = (values[start : start + GROUP].ravel() for values in (scores, trace.losses))
        upper = score >= np.quantile(score, 1.0 - KEPT)
        found.append((auc(score, loss > np.quantile(loss, 1.0 - HARD)), loss[upper].sum() / loss.sum()))
    (area, share), (score_us, learn_us) = np.mean(found, axis=0), seconds / trace.losses.size * 1e6
    return float(area), float(share), float(score_us), float(learn_us)


def predictor_rows(name: str, seeds: tuple[int, ...]) -> list[list[str]]:
    """One row for each predictor."""
    workload = load_workload(name, validation=True)
    features, labels = workload.features(), workload.labels()
    assert features is not None and labels is not None
    traces = [train_once(workload, seed) for seed in seeds]
    rows = []
    for title, make in PREDICTORS.items():
        found = np.array([judged(make(np.asarray(features), labels), trace) for trace in traces])
        numbers = [mean_sd(found[:, 0].tolist(), ".3f"), mean_sd((100 * found[:, 1]).tolist(), ".1f")]
        rows.append([title, *numbers, *(f"{value:.1f}" for value in found[:, 2:].mean(axis=0))])
    return rows


def run(name: str, seed: int, *words: str) -> Report:
    """One run in processes of its own; returns its report."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "autoassist",
            "run",
            name,
            "--validation",
            "--no-live",
            "--run-dir",
            str(run_dir),
        ]
        command += ["--seed", str(seed), "--warmup-epochs", str(WARMUP), *words]
        done = subprocess.run(command, check=False, capture_output=True, timeout=3600, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return read_report(run_dir)


def paired_drop_rate(report: Report) -> float:
    """The drop rate with which random-drop keeps as much of the epoch."""
    filtered = 1.0 - WARMUP - RunSettings().anneal_share
    return min(0.95, (1.0 - report.selection.kept_fraction) / filtered)


def saved(curve: list[tuple[float, float]], accuracy: float, passes: float) -> str:
    """Percent of the passes that uniform needs for as much, by its (accuracy, passes) ``curve``; "-" beyond it."""
    accuracies, costs = zip(*sorted(curve), strict=True)
    if not accuracies[0] <= accuracy <= accuracies[-1]:
        return "-"
    return f"{100 * (1.0 - passes / float(np.interp(accuracy, accuracies, costs))):.0f}"


def policy_rows(name: str, settings: OnePass) -> list[list[str]]:
    """One row for each policy and budget."""
    n, reports = load_workload(name, validation=True).fingerprint().n, dict[str, list[Report]]()
    once = ("--epochs", "1", "--policy")
    for seed in settings.seeds:
        for budget in settings.budgets:
            words = ("--policy", "uniform", "--boss-instances", str(int(budget * n)))
            reports.setdefault(f"uniform, {budget:g} of the data", []).append(run(name, seed, *words))
        default = run(name, seed, *once, "autoassist")
        rate = f"{paired_drop_rate(default):.4f}"
        reports.setdefault("random-drop, as many", []).append(
            run(name, seed, *once, "random-drop", "--drop-rate", rate)
        )
        reports.setdefault("autoassist-paper", []).append(run(name, seed, *once, "autoassist-paper"))
        without = run(name, seed, *once, "autoassist", "--look-ahead", "off")
        reports.setdefault("autoassist, not looking ahead", []).append(without)
        reports.setdefault("**autoassist**", []).append(default)
    means = {
        title: (
            float(np.mean([r.metric.value or 0.0 for r in found])),
            float(np.mean([r.boss.instances for r in found])),
        )
        for title, found in reports.items()
    }
    curve = [point for title, point in means.items() if title.startswith("uniform")]
    rows = []
    for title, found in reports.items():
        less = "-" if title.startswith("uniform") else saved(curve, *means[title])
        accuracy = mean_sd([100 * (r.metric.value or 0.0) for r in found])
        passes = mean_sd([r.boss.instances / r.n for r in found])
        waits = [100 * r.boss.exposed_wait_fraction for r in found]
        rows.append(
            [title, accuracy, passes, less, mean_sd([r.boss.wall_s for r in found], ".1f"), f"{max(waits):.1f}"]
        )
    return rows


def main(settings: OnePass) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(f"{machine()}; seeds {', '.join(map(str, settings.seeds))}, validation part")
    for name in settings.workloads:
        if "predictors" in settings.parts:
            header = ["predictor", "AUC", "loss in the upper 0.6, %", "µs to score", "µs to learn"]
            print(f"\n{name}\n")
            print_table(header, predictor_rows(name, settings.seeds))
        if "policies" in settings.parts:
            header = ["policy", "accuracy, %", "Boss passes : data", "saved, %", "Boss wall time, s"]
            header.append("exposed wait, % (worst)")
            print(f"\n{name}, through the real system\n")
            print_table(header, policy_rows(name, settings))


if __name__ == "__main__":
    main(tyro.cli(OnePass))
