"""``autoassist run``: a whole run on this machine."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from autoassist.launcher import BOSS, Launcher, LaunchSettings
from autoassist.live import LiveView
from autoassist.roles import Flat, LogSettings, WorkloadName, WorkloadSettings
from autoassist.summary import print_summary
from boss.train import TrainSettings
from protocol.errors import RoleFailed
from protocol.report import read_report
from protocol.settings import RunSettings, require
from protocol.signals import StopSignal

log = logging.getLogger("autoassist.run")


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Train a workload here: broker, Assistants and Boss as processes of this machine, and a report at the end."""

    workload: WorkloadName
    run: Flat[RunSettings] = RunSettings()
    train: Flat[TrainSettings] = TrainSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    launch: Flat[LaunchSettings] = LaunchSettings()
    log: Flat[LogSettings] = LogSettings()
    run_dir: Path | None = None
    """Directory of the run; a new one under runs/ if not given."""
    port: int = 0
    """TCP port of the broker on loopback; 0 for any free one."""
    live: Annotated[bool, tyro.conf.arg(help="Show a live view where standard output is a terminal.")] = True

    def execute(self) -> int:
        """Run to the end; returns the exit code."""
        require(0 <= self.port <= 65535, "port", self.port, "must lie in 0 … 65535")
        self.train.resolved_device()
        run_dir = self.run_dir or Path("runs") / f"{_short(self.workload)}-{time.strftime('%Y%m%d-%H%M%S')}"
        live = self.live and sys.stdout.isatty()
        with StopSignal() as stop:
            launcher = Launcher(self.launch, run_dir, echo=not live)
            try:
                address = launcher.start_broker(self._broker_arguments(run_dir))
                for name, arguments in self._role_arguments(address).items():
                    launcher.start_role(name, arguments, {"OMP_NUM_THREADS": "1"} if name != BOSS else None)
                with LiveView(launcher.statistics_address, enabled=live):
                    launcher.supervise(stop)
            finally:
                launcher.shut_down()
        return self._conclude(launcher, run_dir, stop)

    def _conclude(self, launcher: Launcher, run_dir: Path, stop: StopSignal) -> int:
        if stop.requested and not (run_dir / "report.json").exists():
            log.info("stopped before the first batch")
            return 128 + stop.number
        print_summary(read_report(run_dir), run_dir)
        if stop.requested:
            return 128 + stop.number
        if launcher.failed:
            name = launcher.failed[0]
            raise RoleFailed(
                f"{name} failed for good: {launcher.children[name].last_words}; the Boss trained to the end"
            )
        return 0

    def _broker_arguments(self, run_dir: Path) -> list[str]:
        words = ["broker", "--run-dir", str(run_dir), "--port", str(self.port), "--announce"]
        return words + (["--debug"] if self.log.debug else [])

    def _role_arguments(self, address: str) -> dict[str, list[str]]:
        data = [self.workload, "--broker", address, *as_words(self.data, WorkloadSettings())]
        data += ["--debug"] if self.log.debug else []
        roles = {
            f"assistant-{i}": ["assistant", *data, "--name", f"assistant-{i}"] for i in range(self._assistant_count())
        }
        train = as_words(self._shared_train_settings(), TrainSettings())
        roles[BOSS] = ["boss", *data, *as_words(self.run, RunSettings()), *train]
        return roles

    def _shared_train_settings(self) -> TrainSettings:
        """A Boss on the CPU leaves one core to the other roles of this machine.

        With a thread for every core, each of its parallel regions would wait for the thread that lost its core to them.
        """
        if self.train.threads or self.train.resolved_device().type != "cpu":
            return self.train
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return dataclasses.replace(self.train, threads=max(1, cores - 1))

    def _assistant_count(self) -> int:
        """The uniform policy passes everything, so there is nothing for an Assistant to do."""
        return 0 if self.run.policy == "uniform" else self.run.assistants


def as_words(settings: Any, default: Any) -> list[str]:
    """Command-line words that give ``settings``, leaving out what stands at its default."""
    words: list[str] = []
    for field in dataclasses.fields(settings):
        value, option = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        if value == getattr(default, field.name):
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, str(value)]
    return words


def _short(workload: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in workload.rpartition("/")[2])
