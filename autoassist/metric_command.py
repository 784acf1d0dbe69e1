"""``autoassist compare-metric``: name and direction of a workload's metric, by one evaluation of a fresh Boss.

``compare`` asks so where the Boss trains on a GPU: evaluated in its own process, the network's memory and the GPU
itself would stay with it, and its runs would have to do without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import torch

from autoassist.cli import PARENT_VARIABLE
from autoassist.roles import Flat, LogSettings, WorkloadName, WorkloadSettings
from autoassist.run_command import as_words
from boss.train import TrainSettings
from protocol.errors import RoleFailed
from workloads import CheckedWorkload, Metric, Workload


class Direction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a report does not say of a metric."""

    name: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class MetricCommand:
    """Evaluate a fresh Boss, and say name and direction of its metric as the last line, of JSON."""

    workload: WorkloadName = ""
    train: Flat[TrainSettings] = TrainSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Print it; returns the exit code."""
        metric = evaluated(CheckedWorkload(self.data.load(self.workload)), self.train.resolved_device())
        known = Direction(name=metric.name, higher_is_better=bool(metric.higher_is_better))
        sys.stdout.write("\n" + msgspec.json.encode(known).decode() + "\n")
        return 0


def evaluated(workload: Workload, device: torch.device) -> Metric:
    """Of a fresh Boss; its value may be NaN or infinite."""
    boss = workload.boss().to(device).eval()
    with torch.no_grad():
        return workload.evaluate(boss, device)


def asked(workload: str, train: TrainSettings, data: WorkloadSettings, environment: dict[str, str]) -> Direction:
    """What a process of its own says; raises RoleFailed with its last words where it fails."""
    words = ["compare-metric", workload, *as_words(train, TrainSettings()), *as_words(data, WorkloadSettings())]
    done = subprocess.run(
        [sys.executable, "-m", "autoassist", *words],
        env={**os.environ, **environment, PARENT_VARIABLE: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise RoleFailed(f"a fresh Boss cannot be evaluated (exit code {done.returncode}): {last.strip()}")
    for line in reversed(done.stdout.splitlines()):  # a workload may print too
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(line, type=Direction)
    raise RoleFailed(f"a fresh Boss was evaluated, and nothing said of it: {done.stdout.strip()[-200:]}")
