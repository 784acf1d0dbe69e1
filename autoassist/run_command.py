"""``autoassist run``: a whole run on this machine."""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from assistant.policies import require_policy
from autoassist.curves import CurveSettings
from autoassist.ended import complete_report
from autoassist.launcher import BOSS, Launcher, LaunchSettings
from autoassist.live import LiveView
from autoassist.notices import Notices, formatter
from autoassist.page import Page, PageChoice, page_is_wanted
from autoassist.remembered import (
    DEFAULT_CHECKPOINT_EVERY,
    SNAPSHOT_FILE,
    WEIGHTS_FILE,
    LookAheadChoice,
    Remembered,
    require_unfinished,
    stored_ranks,
)
from autoassist.roles import Flat, LogSettings, WorkloadName, WorkloadSettings
from autoassist.run_directory import RunDirectory, require_unused
from autoassist.summary import print_summary
from boss.checkpoint import CheckpointSettings
from boss.joining import fitted
from boss.snapshots import SnapshotSettings
from boss.train import TrainSettings
from broker.run_lock import wait_until_free
from protocol.cores import as_aside, usable_cores
from protocol.errors import RoleFailed, SettingError
from protocol.exporter import ExporterSettings
from protocol.logs import LogFile, speak_as
from protocol.report import REPORT_FILE, read_report
from protocol.security import ROLES, open_key
from protocol.settings import RunSettings, require
from protocol.signals import StopSignal
from workloads import CheckedWorkload, validate_workload
from workloads.sources import asked_already

CORES_TO_LOOK_AHEAD = 8
"""With so many, a Boss on the CPU leaves one more to Assistants that look ahead, a seventh of its own at most; with
fewer they have the idle time of that which it leaves to all other roles."""
log = logging.getLogger("autoassist.run")


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Train a workload here: broker, Assistants and Boss as processes of this machine, and a report at the end."""

    workload: WorkloadName = ""
    run: Flat[RunSettings] = RunSettings()
    train: Flat[TrainSettings] = TrainSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    launch: Flat[LaunchSettings] = LaunchSettings()
    monitor: Flat[ExporterSettings] = ExporterSettings()
    tensorboard: bool = False
    """Draw curves of Boss and Assistants for TensorBoard, in RUN_DIR/tensorboard; needs the extra tensorboard."""
    log: Flat[LogSettings] = LogSettings()
    run_dir: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory of the run; a new one under runs/ if not given."""
    port: int = 0
    """TCP port of the broker on loopback; 0 for any free one."""
    checkpoint_every: int = DEFAULT_CHECKPOINT_EVERY
    """Steps between two checkpoints of the whole run; 0 for none."""
    look_ahead: LookAheadChoice = "auto"
    """Let Assistants run the Boss's network, with weights some hundred steps old, over instances that are soon to be
    offered, on idle time alone: their losses are then known afresh (docs/RESULTS.md). Takes torch and the data set in
    memory once more for each Assistant. Of the policies built in, autoassist only; not in deterministic mode. auto:
    where the Boss trains on a CPU and leaves a core of this machine free for each."""
    keys: Path | None = None
    """Directory of keys for all roles, as autoassist keys init makes it; nobody else on this machine may join then."""
    resume: Path | None = None
    """Directory of a run to go on with from its newest checkpoint, with the settings that it began with."""
    ranks: int | None = None
    """Boss ranks, each a process of its own here. Beside --resume the run goes on with so many; if not given, with as
    many as before."""
    live: Annotated[bool, tyro.conf.arg(help="Show a live view where standard output is a terminal.")] = True

    page: PageChoice = "auto"
    """Serve the run's page for browsers, at port 8080 or the next free one, as long as it lasts; auto where standard
    output is a terminal and the extra monitor is installed."""

    def execute(self) -> int:
        """Run to the end; returns the exit code."""
        speak_as("run", "run")
        with Notices() as notices:
            if self.resume is not None:
                command = self._resumed(self.resume)
                found = command._require_possible()
                return command._launch(self.resume, notices, found)
            require(bool(self.workload), "workload", self.workload, "is missing; give a WORKLOAD, or --resume RUN_DIR")
            require(self.run_dir != "", "run_dir", self.run_dir, "is empty; give --run-dir a name, or leave it out")
            if self.run_dir:
                require_unused(Path(self.run_dir))
            command = self if self.ranks is None else self._with_ranks(self.ranks)
            found = command._require_possible()
            return command._launch(Path(self.run_dir) if self.run_dir else None, notices, found)

    def _with_ranks(self, ranks: int) -> RunCommand:
        return dataclasses.replace(self, run=dataclasses.replace(self.run, world_size=ranks))

    def _require_possible(self) -> dict[str, str]:
        """Refuse here, once and before anything is made, what each role would refuse.

        Returns, as environment variables, what no role shall find out about the data again. Costs the loading of the
        data set, and a Boss that is thrown away.
        """
        require(0 <= self.port <= 65535, "port", self.port, "must lie in 0 … 65535")
        require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "must not be negative")
        for role in ROLES if self.keys is not None else ():
            open_key(self.keys or "", role)
        CurveSettings(tensorboard=Path("tensorboard") if self.tensorboard else None)
        self.train.resolved_device()
        workload = CheckedWorkload(self.data.load(self.workload))
        validate_workload(workload)
        n, size = workload.fingerprint().n, self.run.step_instances
        by_tokens = self.run.max_tokens is not None
        require(by_tokens or size <= n, "batch_size", size, f"exceeds the data set's {n} instances; lower --batch-size")
        fitted(self.run, workload.lengths() if by_tokens else None, n)
        require_policy(self.run, n, workload.labels())
        return asked_already(workload.fall_back)

    def _launch(self, run_dir: Path | None, notices: Notices, found: dict[str, str]) -> int:
        """Start the roles, supervise them to the end, and sum up; returns the exit code."""
        live = self.live and sys.stdout.isatty() and not self.log.debug
        echo = not live or self.log.log_json
        has_page = page_is_wanted(self.page)
        view = LiveView(enabled=live, keys=self.keys)
        with StopSignal() as stop:
            place = self._place(run_dir) if self.resume is None else None
            run_dir = self.resume if place is None else place.path
            assert run_dir is not None
            page = Page(run_dir, self.keys) if has_page else None
            launcher = Launcher(
                self.launch,
                run_dir,
                stop,
                notices,
                echo=echo,
                needs_assistants=self.run.deterministic,
                environment={**found, **self._aside()},
            )
            own_words = LogFile(run_dir / "logs" / "run.log", formatter(as_json=self.log.log_json))
            logging.getLogger("autoassist").addHandler(own_words)
            try:
                self._start(launcher, run_dir, stop)
                if not stop.requested:
                    if page is not None:
                        page.start()
                    view.start(launcher.statistics_address)
                    launcher.supervise()
            finally:
                launcher.shut_down()
                view.stop()
                if page is not None:
                    page.stop()
                logging.getLogger("autoassist").removeHandler(own_words)
                own_words.close()
                if place is not None and (launcher.is_void or (stop.requested and not launcher.has_trained)):
                    place.withdraw()
            return self._conclude(launcher, run_dir, stop, notices)

    def _place(self, run_dir: Path | None) -> RunDirectory:
        began = Remembered.of(self).settled()
        return RunDirectory.new(_short(self.workload), began) if run_dir is None else RunDirectory(run_dir, began)

    def _start(self, launcher: Launcher, run_dir: Path, stop: StopSignal) -> None:
        address = launcher.start_broker(self._broker_arguments(run_dir))
        for name, arguments in self._role_arguments(address, run_dir).items():
            if not stop.requested:
                threads = {"OMP_NUM_THREADS": "1"} if name != BOSS else {}
                launcher.start_role(name, arguments, threads)

    def _conclude(self, launcher: Launcher, run_dir: Path, stop: StopSignal, notices: Notices) -> int:
        """The exit code says what the report says: 0 for a finished run only."""
        if not (run_dir / REPORT_FILE).exists():
            if not stop.requested:
                raise RoleFailed(f"the run has ended without {run_dir / REPORT_FILE}: {launcher.broker_words}")
            log.info("stopped before the first batch; nothing is kept")
            return 128 + stop.number
        report = read_report(run_dir)
        if report.status == "finished":
            (run_dir / SNAPSHOT_FILE).unlink(missing_ok=True)
        print_summary(report, run_dir, notices.lines)
        if report.status == "stopped" or (stop.requested and report.status != "finished"):
            return 128 + (stop.number or signal.SIGTERM)  # without a signal here, a role got one
        if report.status != "finished":
            raise RoleFailed(f"the run is {report.status}, not finished: {launcher.broker_words}")
        if launcher.failed:
            name = launcher.failed[0]
            raise RoleFailed(
                f"{name} failed for good: {launcher.children[name].last_words}; the Boss trained to the end"
            )
        return 0

    def _broker_arguments(self, run_dir: Path) -> list[str]:
        words = ["broker", "--run-dir", str(run_dir), "--port", str(self.port), "--announce"]
        words += ["--resume"] if self.resume is not None else []
        words += self._keys_words()
        return words + as_words(self.monitor, ExporterSettings()) + as_words(self.log, LogSettings())

    def _keys_words(self) -> list[str]:
        return ["--keys", str(self.keys)] if self.keys is not None else []

    def _resumed(self, run_dir: Path) -> RunCommand:
        """The command that began a run, to go on with it."""
        began = Remembered.read(run_dir)
        if self.run_dir is not None and Path(self.run_dir).resolve() != run_dir.resolve():
            raise SettingError(f"--run-dir {self.run_dir}: contradicts --resume {run_dir}; leave it out")
        began.require_agreement(Remembered.of(self), run_dir)
        complete_report(run_dir)
        require_unfinished(run_dir)
        wait_until_free(run_dir)
        complete_report(run_dir)  # what was about to end may have reached its end
        require_unfinished(run_dir)
        command = dataclasses.replace(
            self,
            workload=began.workload,
            run=began.run,
            train=began.train,
            data=began.data,
            checkpoint_every=began.checkpoint_every,
            look_ahead=began.look_ahead,
        )
        return command._with_ranks(self.ranks or stored_ranks(run_dir) or began.run.world_size)

    def _role_arguments(self, address: str, run_dir: Path) -> dict[str, list[str]]:
        data = [self.workload, "--broker", address, *as_words(self.data, WorkloadSettings())]
        data += [*self._keys_words(), *as_words(self.log, LogSettings())]
        data += ["--tensorboard", str(run_dir / "tensorboard")] if self.tensorboard else []
        snapshots = run_dir / SNAPSHOT_FILE if Remembered.of(self).looks_ahead else None
        ahead = as_words(SnapshotSettings(snapshots=snapshots), SnapshotSettings())
        kept = ["--state-dir", str(run_dir / "assistants")]
        roles = {
            name: ["assistant", *data, "--name", name, *kept, *ahead]
            for name in (f"assistant-{i}" for i in range(self._assistant_count()))
        }
        train = as_words(self._shared_train_settings(), TrainSettings())
        saving = CheckpointSettings(
            checkpoint_every=self.checkpoint_every,
            checkpoint_dir=run_dir / "checkpoints",
            save=run_dir / WEIGHTS_FILE,
            resume=self.resume is not None,
        )
        words = [*as_words(saving, CheckpointSettings()), *ahead]
        roles[BOSS] = ["boss", *data, *as_words(self.run, RunSettings()), *train, *words]
        return roles

    def _shared_train_settings(self) -> TrainSettings:
        """A Boss on the CPU leaves a core to the other roles of this machine, and where there are enough one more to
        Assistants that look ahead; its ranks share what is left.

        With a thread for every core, each of its parallel regions would wait for the thread that lost its core to them.
        """
        if self.train.threads or self.train.resolved_device().type != "cpu":
            return self.train
        cores = usable_cores()
        others = 2 if cores >= CORES_TO_LOOK_AHEAD and Remembered.of(self).looks_ahead else 1
        return dataclasses.replace(self.train, threads=max(1, (cores - others) // self.run.world_size))

    def _aside(self) -> dict[str, str]:
        """The cores that a Boss on the CPU leaves free, for the rest of the run to keep to where Assistants look ahead:
        otherwise there is idle time on them, and Linux finds it. Only where the rest has room there."""
        if self.train.resolved_device().type != "cpu" or not Remembered.of(self).looks_ahead:
            return {}
        free = usable_cores() - self._shared_train_settings().threads * self.run.world_size
        return as_aside(free) if self.run.assistants <= free else {}

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
