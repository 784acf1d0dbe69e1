"""The Assistant's one poll loop: the socket and the clock on the outside, the core within."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from assistant.checkpoint import AssistantCheckpoint, read_checkpoint
from assistant.core import LOOKED_AT, AssistantCore
from assistant.look_ahead import LookAhead
from assistant.policies import make_policy, takes_fresh_losses
from assistant.preview import Previews, Show
from assistant.tables import MAP_FROM, Tables
from protocol.client import ConnectSettings, RoleClient, new_incarnation
from protocol.errors import DataError, PeerFenced
from protocol.messages import MOST_SET_ASIDE, AnyMessage, Goodbye, Hello, Preview, Stop, Welcome, Window, history_id
from protocol.session import SessionTimes
from protocol.settings import RunSettings, require
from protocol.signals import StopSignal
from protocol.sparse import Features
from protocol.trouble import Trouble

log = logging.getLogger("autoassist.assistant")
Made = TypeVar("Made")

IDLE_S = 1.0
DRAIN_S = 5.0
CHECKPOINT_RECORDS = 2000
"""Loss records between two checkpoints; rebuilding so many takes about half a second."""


@dataclass(frozen=True, kw_only=True)
class AssistantSettings:
    """Settings of one Assistant; all that concerns the run comes from the broker."""

    name: str = "assistant-0"
    """Unique in the run."""

    slots: int = 2
    """Windows that it takes at once."""

    state_dir: Path | None = None
    """Directory for its checkpoint; without one, a restart rebuilds what it knew from the broker's loss log."""

    map_from: int = MAP_FROM
    """Instances from which on what is remembered of them, 16 bytes of each, lies in mapped files (in the state
    directory; without one in the folder for temporary files, without a name) instead of memory."""

    previews: bool = True
    """Show instances, small, to whoever looks at the run's page (autoassist monitor), with their labels and losses."""

    snapshots: Path | None = None
    """File in which the Boss leaves its weights now and then (the Boss's own --snapshots), on a disk that both see;
    with a WORKLOAD this Assistant then looks ahead with them in idle time."""

    def __post_init__(self) -> None:
        require(bool(self.name) and len(self.name) <= 100, "name", self.name, "must have 1 to 100 characters")
        require(1 <= self.slots <= 64, "slots", self.slots, "must lie in 1 … 64")
        require(self.map_from >= 0, "map_from", self.map_from, "must not be negative")

    @property
    def checkpoint_path(self) -> Path | None:
        """The checkpoint's file; None where there is no directory for it."""
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)
        return self.state_dir / f"{name}.npz" if self.state_dir is not None else None


class Assistant:
    """One Assistant process.

    ``features`` has shape (n, d) float32, dense or sparse, or is None, ``labels`` (n,) int64 or None, and ``show``
    gives what a person sees of an instance. Without a data set of its own (``dataset_id`` "" and ``n`` 0) it takes the
    run's, and knows instances by their losses alone.
    """

    def __init__(
        self,
        settings: AssistantSettings,
        connect: ConnectSettings,
        *,
        dataset_id: str = "",
        n: int = 0,
        features: Features | None = None,
        labels: NDArray[np.int64] | None = None,
        show: Show | None = None,
        look_ahead: LookAhead | None = None,
        times: SessionTimes | None = None,
    ) -> None:
        self.settings = settings
        self.connect = connect
        self.dataset_id = dataset_id
        self.n = n
        self.features = features
        self.labels = labels
        self.show = show
        self.look_ahead = look_ahead
        self._looks_ahead = False
        self.times = times
        self._unsaved = Trouble(log)
        self._begin()

    def _begin(self) -> None:
        """A new incarnation, with what the checkpoint knows."""
        self.core: AssistantCore | None = None
        self.previews: Previews | None = None
        self.history = ""
        self._early: list[AnyMessage] = []
        self._written = 0
        path = self.settings.checkpoint_path
        self.tables = Tables(path.with_suffix("") if path is not None else None, self.settings.map_from)
        self.saved = read_checkpoint(path) if path is not None else None
        hello = Hello(
            role="assistant",
            name=self.settings.name,
            incarnation=new_incarnation(),
            dataset_id=self.dataset_id,
            n=self.n,
            slots=self.settings.slots,
            package_version=metadata.version("autoassist"),
            position=self.saved.position if self.saved is not None else 0,
            history=self.saved.history if self.saved is not None else "",
            previews=self.settings.previews,
        )
        self.client = RoleClient(hello, self.connect, times=self.times)
        if (look_ahead := self.look_ahead) is not None:
            self.client.beside = lambda: look_ahead.process_id

    def run(self, stop: StopSignal) -> str:
        """Serve until the broker says Stop or a signal comes; returns why it ended.

        Raises PeerRefused and BrokerUnreachable.
        """
        try:
            while True:
                try:
                    return self._serve(stop)
                except PeerFenced as error:
                    level = logging.INFO if error.code else logging.WARNING  # without one, a checkpoint is lost
                    log.log(level, "joining the run anew: %s", error)
                finally:
                    self.client.close()
                    self.tables.close()
                self._begin()
        finally:
            if self.look_ahead is not None:
                self.look_ahead.close()

    def _serve(self, stop: StopSignal) -> str:
        ended = ""
        while not ended:
            busy = self.client.is_open and self.core is not None and self.core.has_work()
            for message in self.client.poll(0.0 if busy else IDLE_S, stop.fileno()):
                ended = ended or self._take(message)
            if stop.requested:
                ended = ended or "stopped"
            if self.core is not None and self.client.is_open and not ended:
                self._collect(self.core)
                self._say(self.core.work())
                self._save(CHECKPOINT_RECORDS)
        self._save(1)
        self._unsaved.ends()
        self._leave(ended)
        return ended

    def _take(self, message: AnyMessage) -> str:
        match message:
            case Welcome():
                return self._join(message)
            case Stop(reason=reason):
                return reason
            case Preview():
                self._answer(message)
            case _ if self.core is not None:
                if self._looks_ahead and self.look_ahead is not None and isinstance(message, Window):
                    self.look_ahead.offered(message)
                self._say(self.core.receive(message))
                self.client.session.update_hello(position=self.core.position, history=self.history)
        return ""

    def _join(self, welcome: Welcome) -> str:
        """Begin, or go on where the broker was away; returns why it has ended, where the broker has said so by now."""
        self.history = history_id(welcome.run_id, welcome.generation)
        for name, array in (("features", self.features), ("labels", self.labels)):
            if array is not None and len(array) != welcome.n:
                raise DataError(
                    f"{name} of {self.settings.name}: {len(array)} rows, the run has {welcome.n} instances; "
                    f"give a row for each"
                )
        if self.core is None:
            settings = welcome.settings
            log.info("joined the run: policy %s, seed %d", settings.policy, settings.seed)
            self._looks_ahead = self._may_look_ahead(settings)
            policy = self._heard_meanwhile(
                lambda: make_policy(
                    settings,
                    welcome.n,
                    self.features,
                    self.labels,
                    tables=self.tables,
                    looks_ahead=self._looks_ahead,
                )
            )
            if self.look_ahead is not None:
                if self._looks_ahead:
                    self.look_ahead.start(welcome.n, settings.seed)
                else:
                    self.look_ahead.stop()  # of the run before, where this one is joined anew
            self.core = AssistantCore(settings, policy, figures={LOOKED_AT: 0.0} if self._looks_ahead else {})
            self._load(self.core, welcome)
            if self.settings.previews:
                self.previews = Previews(welcome.n, self.labels, self.show)
                self.core.watcher = self.previews.history
        self._say(self.core.grant())
        early, self._early, ended = self._early, [], ""
        for message in early:
            ended = ended or self._take(message)
        return ended

    def _may_look_ahead(self, settings: RunSettings) -> bool:
        """In deterministic mode there are no clocks, and what was found in time would depend on one."""
        return self.look_ahead is not None and not settings.deterministic and takes_fresh_losses(settings)

    def _collect(self, core: AssistantCore) -> None:
        if self.look_ahead is not None:
            for fresh in self.look_ahead.collect():
                core.refresh(fresh.ids, fresh.losses)

    def _heard_meanwhile(self, make: Callable[[], Made]) -> Made:
        """What ``make`` returns, in a thread of its own: it may take longer than the broker bears silence, and only the
        Welcome says what there is to make. What the broker says meanwhile waits in ``_early``."""
        with ThreadPoolExecutor(1) as threads:
            made = threads.submit(make)
            while not wait([made], self.client.session.times.heartbeat_s / 4).done:
                self._early += self.client.poll(0.0)
        return made.result()

    def _answer(self, wanted: Preview) -> None:
        if self.previews is not None and self.core is not None:
            core = self.core
            self._say([self.previews.answer(wanted, self.settings.name, core.policy, core.moment)])

    def _load(self, core: AssistantCore, welcome: Welcome) -> None:
        """Take up what was learned before; the broker judges by the same rule what it need not send again."""
        saved, self.saved = self.saved, None
        if saved is None or saved.history != self.history or saved.position > welcome.position:
            self.tables.begin()
            return
        try:
            core.policy.load_state_dict(saved.policy)
            self.tables.go_back(saved.mark)
        except (KeyError, ValueError) as error:
            path = self.settings.checkpoint_path
            assert path is not None
            path.unlink(missing_ok=True)
            why = f"{path} cannot be taken up ({error}) and is removed; rebuilding from the loss log"
            raise PeerFenced(why) from error
        core.position = core.applied = saved.position
        core.learned_through = saved.learned_through
        self._written = saved.position
        log.info("going on from the checkpoint of loss record %d", saved.position)

    def _save(self, every_records: int) -> None:
        """Write a checkpoint if so many records were applied since the last one."""
        core, path = self.core, self.settings.checkpoint_path
        if core is None or path is None or core.applied - self._written < every_records or not self.tables.can_be_kept:
            return
        self._written = core.applied
        state = core.policy.state_dict()
        try:
            mark = self.tables.prepare()
            AssistantCheckpoint(self.history, core.applied, core.learned_through, state, mark).write(path)
            self.tables.commit()
        except OSError as error:
            self._unsaved.met(f"{path} cannot be written ({error})", "a restart will rebuild from the loss log")
        else:
            self._unsaved.is_over()

    def _say(self, messages: list[AnyMessage]) -> None:
        for message in messages:
            self.client.send(message)

    def _leave(self, reason: str) -> None:
        if self.client.is_open:
            self.client.send(goodbye(self.core, reason))
            if not self.client.drain(DRAIN_S):
                log.warning("the broker did not acknowledge the Goodbye")


def goodbye(core: AssistantCore | None, reason: str) -> Goodbye:
    """Last words: the figures, and the first of the instances that are set aside."""
    if core is None:
        return Goodbye(reason=reason)  # type: ignore[arg-type]
    figures = {**core.figures, **core.policy.figures}
    return Goodbye(reason=reason, figures=figures, set_aside=core.policy.set_aside[:MOST_SET_ASIDE])  # type: ignore[arg-type]
