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

import msgspec
import tyro

from autoassist.launcher import BOSS, Launcher, LaunchSettings
from autoassist.live import LiveView
from autoassist.roles import Flat, LogSettings, WorkloadName, WorkloadSettings
from autoassist.summary import print_summary
from boss.checkpoint import CheckpointSettings
from boss.train import TrainSettings
from protocol.errors import DataError, RoleFailed, SettingError
from protocol.report import read_report
from protocol.settings import RunSettings, require
from protocol.signals import StopSignal

log = logging.getLogger("autoassist.run")

COMMAND_FILE = "command.json"


class Remembered(msgspec.Struct, frozen=True):
    """What a run was begun with, in its directory."""

    workload: str
    run: RunSettings
    train: TrainSettings
    data: WorkloadSettings
    checkpoint_every: int


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Train a workload here: broker, Assistants and Boss as processes of this machine, and a report at the end."""

    workload: WorkloadName = ""
    run: Flat[RunSettings] = RunSettings()
    train: Flat[TrainSettings] = TrainSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    launch: Flat[LaunchSettings] = LaunchSettings()
    log: Flat[LogSettings] = LogSettings()
    run_dir: Path | None = None
    """Directory of the run; a new one under runs/ if not given."""
    port: int = 0
    """TCP port of the broker on loopback; 0 for any free one."""
    checkpoint_every: int = 500
    """Steps between two checkpoints of the whole run; 0 for none."""
    resume: Path | None = None
    """Directory of a run to go on with from its newest checkpoint, with the settings that it began with."""
    live: Annotated[bool, tyro.conf.arg(help="Show a live view where standard output is a terminal.")] = True

    def execute(self) -> int:
        """Run to the end; returns the exit code."""
        if self.resume is not None:
            return self._resumed(self.resume).launch_roles(self.resume)
        if not self.workload:
            raise SettingError("workload is missing; give a WORKLOAD, or --resume RUN_DIR")
        return self.launch_roles(
            self.run_dir or Path("runs") / f"{_short(self.workload)}-{time.strftime('%Y%m%d-%H%M%S')}"
        )

    def launch_roles(self, run_dir: Path) -> int:
        """Start the roles, supervise them to the end, and sum up; returns the exit code."""
        require(0 <= self.port <= 65535, "port", self.port, "must lie in 0 … 65535")
        self.train.resolved_device()
        require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "must not be negative")
        live = self.live and sys.stdout.isatty()
        with StopSignal() as stop:
            launcher = Launcher(self.launch, run_dir, echo=not live)
            try:
                address = launcher.start_broker(self._broker_arguments(run_dir))
                if self.resume is None:
                    self._remember(run_dir)
                for name, arguments in self._role_arguments(address, run_dir).items():
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
        words += ["--resume"] if self.resume is not None else []
        return words + (["--debug"] if self.log.debug else [])

    def _remember(self, run_dir: Path) -> None:
        """Write what ``--resume`` needs to know."""
        command = Remembered(self.workload, self.run, self.train, self.data, self.checkpoint_every)
        (run_dir / COMMAND_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(command, enc_hook=str)))

    def _resumed(self, run_dir: Path) -> RunCommand:
        """The command that began a run, to go on with it."""
        path = run_dir / COMMAND_FILE
        try:
            began = msgspec.json.decode(path.read_bytes(), type=Remembered, dec_hook=lambda kind, value: kind(value))
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}: {error}; give the --run-dir of a run that `autoassist run` has begun") from None
        return dataclasses.replace(
            self,
            workload=began.workload,
            run=began.run,
            train=began.train,
            data=began.data,
            checkpoint_every=began.checkpoint_every,
        )

    def _role_arguments(self, address: str, run_dir: Path) -> dict[str, list[str]]:
        data = [self.workload, "--broker", address, *as_words(self.data, WorkloadSettings())]
        data += ["--debug"] if self.log.debug else []
        state_dir = str(run_dir / "assistants")
        roles = {
            name: ["assistant", *data, "--name", name, "--state-dir", state_dir]
            for name in (f"assistant-{i}" for i in range(self._assistant_count()))
        }
        train = as_words(self._shared_train_settings(), TrainSettings())
        saving = CheckpointSettings(
            checkpoint_every=self.checkpoint_every,
            checkpoint_dir=run_dir / "checkpoints",
            save=run_dir / "boss.pt",
            resume=self.resume is not None,
        )
        words = as_words(saving, CheckpointSettings())
        roles[BOSS] = ["boss", *data, *as_words(self.run, RunSettings()), *train, *words]
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
