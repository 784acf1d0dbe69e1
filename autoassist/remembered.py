"""What a run was begun with, as its directory remembers it, and how far it came."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from assistant.policies import takes_fresh_losses
from autoassist.roles import WorkloadSettings
from boss.train import TrainSettings
from broker.rows import RunRow
from broker.store import stored_rows
from protocol.cores import usable_cores
from protocol.errors import AutoAssistError, DataError, SettingError
from protocol.report import REPORT_FILE, read_report
from protocol.settings import RunSettings

COMMAND_FILE = "command.json"
WEIGHTS_FILE = "boss.pt"
SNAPSHOT_FILE = "snapshot.pt"
DEFAULT_CHECKPOINT_EVERY = 500
PYTHON = platform.python_version()
LookAheadChoice = Literal["auto", "on", "off"]


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is begun with, and goes on with."""

    workload: str
    run: RunSettings
    train: TrainSettings
    data: WorkloadSettings
    checkpoint_every: int
    look_ahead: LookAheadChoice = "off"
    """As it was given; a run that was begun before there was such an option goes on without it."""
    code: str = ""
    """``code_of`` the workload when the run was begun."""

    @property
    def looks_ahead(self) -> bool:
        """Whether Assistants of the run do, on this machine.

        In deterministic mode there are no clocks, and what was found in time would depend on one. Of themselves they do
        so where a core is as fast as the Boss's, for beside an accelerator little would be looked at in time, and where
        the Boss leaves one free for each.
        """
        if self.look_ahead == "off" or self.run.deterministic or not _is_of_use(self.run):
            return False
        return self.look_ahead == "on" or (self.train.resolved_device().type == "cpu" and self._leaves_room)

    @property
    def _leaves_room(self) -> bool:
        cores, ranks = usable_cores(), self.run.world_size
        trained_on = (self.train.threads or max(1, (cores - 1) // ranks)) * ranks
        return max(1, self.run.assistants) <= cores - trained_on

    def settled(self) -> Remembered:
        """What depends on the machine as it is on this one, so that the run goes on so on any."""
        if self.look_ahead != "auto":
            return self
        return msgspec.structs.replace(self, look_ahead="on" if self.looks_ahead else "off")

    @classmethod
    def of(cls, command: Any) -> Remembered:
        """From a command that has the same fields; paths are made absolute, for a resume from another folder."""
        data = command.data
        for name in ("data_dir", "data", "reference"):
            if (path := getattr(data, name)) is not None:
                data = dataclasses.replace(data, **{name: path.absolute()})
        run = command.run
        if run.irreducible_losses:
            run = dataclasses.replace(run, irreducible_losses=str(Path(run.irreducible_losses).absolute()))
        return cls(
            workload=_absolute(command.workload),
            run=run,
            train=command.train,
            data=data,
            checkpoint_every=command.checkpoint_every,
            look_ahead=command.look_ahead,
            code=code_of(command.workload),
        )

    @classmethod
    def read(cls, run_dir: Path) -> Remembered:
        """What the run in ``run_dir`` was begun with; raises DataError where it does not say."""
        path = run_dir / COMMAND_FILE
        try:
            content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            if isinstance(given := content.get("look_ahead"), bool):  # of runs that were begun when it was a switch
                content["look_ahead"] = "on" if given else "off"
            began = msgspec.convert(content, cls, dec_hook=lambda kind, value: kind(value))
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}: {error}; give the --run-dir of a run that `autoassist run` has begun") from None
        return msgspec.structs.replace(cls.of(began), code=began.code)

    def encoded(self) -> bytes:
        """The content of the file."""
        return msgspec.json.format(msgspec.json.encode(self, enc_hook=str))

    def require_agreement(self, given: Remembered, run_dir: Path) -> None:
        """Raise SettingError for options beside ``--resume`` that would have to be ignored.

        An option at its default says nothing; whether it was typed cannot be told.
        """
        pairs = list(self._contradictions(given))
        if pairs:
            mine = ", ".join(f"{option} {here}".strip() for option, here, _ in pairs)
            theirs = ", ".join(f"{option} {there}".strip() for option, _, there in pairs)
            raise SettingError(
                f"{mine}: the run in {run_dir} was begun with {theirs} and goes on with it; leave that out beside "
                f"--resume, or begin another run"
            )

    def _contradictions(self, given: Remembered) -> Iterator[tuple[str, object, object]]:
        """(option, value given, value remembered)."""
        if given.workload not in ("", self.workload):
            yield "WORKLOAD", given.workload, self.workload
        if given.checkpoint_every not in (DEFAULT_CHECKPOINT_EVERY, self.checkpoint_every):
            yield "--checkpoint-every", given.checkpoint_every, self.checkpoint_every
        if given.look_ahead not in ("auto", self.look_ahead):
            yield "--look-ahead", given.look_ahead, self.look_ahead
        run = dataclasses.replace(self.run, epochs=self.run.epoch_budget)  # 3 where neither budget was given
        for mine, theirs in ((given.run, run), (given.train, self.train), (given.data, self.data)):
            default = type(mine)()
            for name in (field.name for field in dataclasses.fields(mine)):
                here, there = getattr(mine, name), getattr(theirs, name)
                if here not in (getattr(default, name), there):
                    yield "--" + name.replace("_", "-"), here, there


def _is_of_use(run: RunSettings) -> bool:
    """Whether looking ahead is; of a policy that is not there its Assistant says so."""
    try:
        return takes_fresh_losses(run)
    except SettingError:
        return False


def _absolute(workload: str) -> str:
    """A workload file by its full path; other names as they are."""
    location, separator, name = workload.rpartition(":")
    return f"{Path(location).absolute()}{separator}{name}" if location.endswith(".py") else workload


def code_of(workload: str) -> str:
    """Names what stands in a workload's own file, but for comments and its form; "" of a built-in one, and of a file
    that cannot be taken apart. What the file imports is not in it."""
    location = workload.rpartition(":")[0]
    if not location.endswith(".py"):
        return ""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the file's own, which its import tells
            text = ast.unparse(ast.parse(Path(location).read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return f"{PYTHON} {hashlib.sha256(text.encode()).hexdigest()}"


def is_other_code(one: str, other: str) -> bool:
    """Whether both are known, and differ; versions of Python write the same file differently."""
    return bool(one and other) and one.partition(" ")[0] == other.partition(" ")[0] and one != other


def require_unfinished(run_dir: Path) -> None:
    """Raise SettingError where the run has reached its end: resumed, it would be taken back.

    Where the trained weights were not saved any more, to resume is the way to them.
    """
    is_finished = _reported(run_dir) == "finished" or stored_end(run_dir) == "finished"
    if is_finished and (run_dir / WEIGHTS_FILE).exists():
        report = run_dir / REPORT_FILE
        raise SettingError(f"resume={run_dir}: the run is finished, see {report}; begin another with a new --run-dir")


def _reported(run_dir: Path) -> str:
    """Status in the report; "" where there is none that can be read."""
    try:
        return read_report(run_dir).status
    except DataError:
        return ""


def stored_end(run_dir: Path) -> str:
    """How the run has ended, as the broker's store knows before any role and the report do; "" if it has not."""
    row = _stored_run(run_dir)
    return row.ended if row is not None else ""


def stored_id(run_dir: Path) -> str:
    """The name of the run; "" where the broker's store does not say."""
    row = _stored_run(run_dir)
    return row.run_id if row is not None else ""


def stored_ranks(run_dir: Path) -> int:
    """With how many Boss ranks the run was trained last; 0 where the broker's store does not say."""
    row = _stored_run(run_dir)
    return row.settings.world_size if row is not None else 0


def _stored_run(run_dir: Path) -> RunRow | None:
    try:
        return next((row for _, row in stored_rows(run_dir) if isinstance(row, RunRow)), None)
    except AutoAssistError:
        return None
