"""``autoassist.Feed``: the Boss's feed, and ``Feed.local``, which starts broker and Assistants by itself."""

from __future__ import annotations

import json
import logging
import queue
import signal
import threading
import time
from collections.abc import Sized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.policies import require_policy
from autoassist.children import Child, without_cwd
from autoassist.local_arrays import as_features, as_labels, rows_of
from autoassist.remembered import COMMAND_FILE, stored_end, stored_id
from autoassist.run_directory import listens_within_s, new_folder, require_unused, unwritable
from boss.feed import Feed as BossFeed
from boss.joining import chosen_settings, require_state
from boss.ranks import ranks_here
from broker.store import DATABASE
from protocol.errors import RoleFailed, SettingError
from protocol.messages import Hello
from protocol.report import REPORT_FILE
from protocol.settings import RunSettings, require

log = logging.getLogger("autoassist.local")

BROKER = "broker"
END_S = 15.0
GRACE_S = 3.0


class LocalRoles:
    """A broker and Assistants as processes of this machine, for a Boss that is the calling script.

    They end with the feed, and with the thread that has started them (Linux): start them from the main thread. One that
    is killed is not started again: without an Assistant the run goes on unfiltered; without its broker, or in
    deterministic mode without an Assistant, it would never end, and ends with an error. ``goes_on``: with the run of
    such roles, where the directory holds one.
    """

    def __init__(self, run_dir: Path, *, goes_on: bool = False, needs_assistants: bool = False) -> None:
        self._goes_on = goes_on and (run_dir / DATABASE).exists() and not (run_dir / COMMAND_FILE).exists()
        if not self._goes_on:
            require_unused(run_dir)
        elif stored_end(run_dir) == "finished":
            report = run_dir / REPORT_FILE
            raise SettingError(f"run_dir={run_dir}: its run is finished, see {report}; give another run_dir")
        self._needs_assistants = needs_assistants
        self.run_dir = run_dir
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        self.children: list[Child] = []
        self.is_ending = False
        """Whether a role that ends is no news."""
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.failure: RoleFailed | None = None
        """The end of a role without which the run cannot go on."""
        self._feed: BossFeed | None = None
        self._told: set[str] = set()
        self._telling = threading.Lock()

    def _start(self, name: str, arguments: list[str], *, announce: bool = False) -> Child:
        child = Child(
            name,
            arguments,
            self.run_dir / "logs" / f"{name}.log",
            on_line=lambda name, line: log.debug("[%s] %s", name, line),
            on_news=lambda: self._hear_of(child),
            environment={"OMP_NUM_THREADS": "1", **without_cwd()},
        )
        child.start(announce=announce)
        self.children.append(child)
        return child

    def _hear_of(self, child: Child) -> None:
        self._news.put(None)
        if self._feed is not None and child.code is not None:
            self._tell(self._feed, child)

    def heard_by(self, feed: BossFeed) -> None:
        """From now on this feed hears of a role that ends, and of one that has ended by now."""
        self._feed = feed
        for child in self.children:
            self._hear_of(child)

    def _tell(self, feed: BossFeed, child: Child) -> None:
        if self.is_ending:
            if child.name == BROKER:
                feed._line.hurries = True  # nobody starts it again, to commit what it has not
            return
        with self._telling:
            if child.name in self._told:
                return
            self._told.add(child.name)
        if self._is_needed(child, feed):
            why = "in deterministic mode the run cannot go on without it"
            if child.name == BROKER:
                again = f"Feed.local(…, run_dir={str(self.run_dir)!r}, state=…) goes on with it from a checkpoint"
                why = f"the run cannot go on without it; {again}"
            self.failure = RoleFailed(f"{child.name} {child.story}; {why} (log: {child.log_file})")
            log.warning("%s", self.failure)
            feed._line.fail(self.failure)
        elif child.code:
            words = "%s is gone (%s), and is not started again; the run goes on without it (log: %s)"
            log.warning(words, child.name, child.story, child.log_file)

    def _is_needed(self, child: Child, feed: BossFeed) -> bool:
        """Whether the run cannot go on without this one. In deterministic mode nobody else may score an Assistant's
        windows; it is needed until the last batch has come, or somebody has stopped the run."""
        if child.name == BROKER:
            return child.code != 0
        return self._needs_assistants and not feed._plan.is_closed and not stored_end(self.run_dir)

    def start_broker(self) -> str:
        """Start the broker; returns its address. Raises RoleFailed with its last words where it does not come up."""
        words = [BROKER, "--run-dir", str(self.run_dir), "--port", "0", "--announce"]
        words += ["--resume"] if self._goes_on else []
        deadline = time.monotonic() + listens_within_s(self.run_dir)
        broker = self._start(BROKER, words, announce=True)
        while not broker.announcement:
            if not broker.is_running or time.monotonic() > deadline:
                self.is_ending = True
                raise RoleFailed(f"the broker does not listen: {broker.last_words} (log: {broker.log_file})")
            self._wait(deadline)
        try:
            return str(json.loads(broker.announcement)["address"])
        except (ValueError, LookupError, TypeError):
            said = broker.announcement.rstrip()
            raise RoleFailed(
                f"the broker says {said!r:.200} where its address should be; something that Python loads at its start, "
                f"sitecustomize for one, writes to standard output (log: {broker.log_file})"
            ) from None

    def start_assistants(self, address: str, count: int, arrays: dict[str, NDArray[Any] | None]) -> None:
        """Start Assistants; ``arrays`` are what they know of the instances, given to them as files."""
        words = ["assistant", "--broker", address, "--state-dir", str(self.run_dir / "assistants")]
        for option, array in arrays.items():
            if array is not None:
                path = self.run_dir / f"{option}.npy"
                np.save(path, array, allow_pickle=False)
                words += [f"--{option}", str(path)]
        for number in range(count):
            self._start(f"assistant-{number}", [*words, "--name", f"assistant-{number}"])

    def end(self, *, at_once: bool = False) -> None:
        """Wait until the Boss's Goodbye has ended the broker, which waits for its Assistants; then tell those that
        stay, such as one that came too late to join, and kill what does not hear.
        """
        self.is_ending = True
        for child in self.children if at_once else []:
            child.tell(signal.SIGTERM)
        broker = self.children[:1]
        for waited_for, within_s, number in (
            (broker, END_S, signal.SIGTERM),
            (self.children, GRACE_S, signal.SIGKILL),
        ):
            deadline = time.monotonic() + within_s
            while any(child.is_running for child in waited_for) and time.monotonic() < deadline:
                self._wait(deadline)
            for child in self.children:
                child.tell(number)
        for child in self.children:
            child.wait(GRACE_S)

    def _wait(self, deadline: float) -> None:
        try:
            self._news.get(timeout=min(0.25, max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            return


class Feed(BossFeed):
    """See ``boss.feed.Feed``; this one can bring its own broker and Assistants."""

    _roles: LocalRoles | None = None

    def _begin(self, hello: Hello) -> None:
        super()._begin(hello)
        if self._roles is not None and self._roles.failure is not None:  # load_state_dict has begun another line
            self._line.fail(self._roles.failure)

    @classmethod
    def local(
        cls,
        dataset: Sized,
        *,
        run_dir: str | Path | None = None,
        assistants: int | None = None,
        features: NDArray[Any] | None = None,
        labels: NDArray[Any] | None = None,
        lengths: NDArray[Any] | None = None,
        settings: RunSettings | None = None,
        state: dict[str, Any] | None = None,
        **run_settings: Any,
    ) -> Feed:
        """Start a broker and Assistants here and join their run: nothing else is needed, in a notebook for one.

        ``features``, shape (n, d), finite, and ``labels``, (n,), whole numbers from 0 up, are for the Assistants; they
        learn from losses alone without them. ``assistants`` is how many: those of ``settings``, or 1, if not given; the
        run waits for as many as its settings say in deterministic mode. ``lengths`` are the tokens of each instance,
        for ``max_tokens``. ``run_dir`` holds the report; a new directory under ``runs/`` if not given. ``state`` is a
        ``state_dict`` of an earlier feed of the run in ``run_dir``, which is gone on with, or ``{}`` for that run's
        beginning, or for a new one where there is none. The other arguments are the fields of ``RunSettings``.

        Raises SettingError for a bad setting, a directory that holds a run, without a ``state`` for it, or several
        ranks, RoleFailed where the broker does not start. A broker that is killed, and in deterministic mode an
        Assistant, end the run: the next batch raises RoleFailed.
        """
        ranks = ranks_here()
        require(ranks == 1, "ranks", ranks, "Feed.local is for one; start `autoassist broker`, and use Feed.connect")
        require_state(state)
        n = rows_of(dataset)
        run, count = _run_and_assistants(settings, run_settings, assistants)
        features, labels = as_features(features, n), as_labels(labels, n)
        require_policy(run, n, labels)
        roles = _roles_in(run_dir, state, needs_assistants=run.deterministic)
        try:
            address = roles.start_broker()
            roles.start_assistants(address, count, {"features": features, "labels": labels})
            feed = cls.connect(address, dataset=dataset, settings=run, lengths=lengths, state=state)
        except BaseException:
            roles.end(at_once=True)
            raise
        feed._roles = roles
        roles.heard_by(feed)
        log.info("run directory %s", roles.run_dir)
        return feed

    @property
    def run_dir(self) -> Path | None:
        """Where the report of a local run is; None for a run elsewhere."""
        return self._roles.run_dir if self._roles is not None else None

    def close(self, reason: str = "") -> bool:
        """As ``boss.feed.Feed.close``; then the local roles end too."""
        if self._roles is not None:
            self._roles.is_ending = True
            if self._roles.children[0].code is not None:
                self._line.leaves_silently = True  # nobody starts the broker again, to hear a Goodbye
        is_whole = super().close(reason)
        if self._roles is not None:
            self._roles.end()
        return is_whole


def _run_and_assistants(
    settings: RunSettings | None, given: dict[str, Any], assistants: int | None
) -> tuple[RunSettings, int]:
    """The run's settings, and how many Assistants are to be started; raises SettingError."""
    if unknown := [name for name in given if name not in RunSettings.__dataclass_fields__]:
        remedy = "beside its own it has the fields of RunSettings"
        raise SettingError(f"Feed.local: has no argument {', '.join(unknown)}; {remedy}")
    if assistants is None:
        assistants = settings.assistants if isinstance(settings, RunSettings) else 1
    require(assistants >= 0, "assistants", assistants, "must not be negative")
    run = chosen_settings(settings, given, 1, assistants=max(1, assistants))
    if run.policy == "uniform":
        return run, 0
    remedy = f"in deterministic mode the run waits for its Assistants; give as many as its settings, {run.assistants}"
    require(not run.deterministic or assistants == run.assistants, "assistants", assistants, remedy)
    return run, assistants


def _roles_in(run_dir: str | Path | None, state: dict[str, Any] | None, *, needs_assistants: bool) -> LocalRoles:
    """For a new run, or for the one that ``state`` is of; raises SettingError where the directory does not fit."""
    try:
        has_run = run_dir is not None and (Path(run_dir) / DATABASE).exists()
        require(
            not state or has_run, "run_dir", run_dir, "holds no run; give the directory of the run that state is of"
        )
        place = Path(run_dir) if run_dir is not None else new_folder("feed")
        if state:
            wanted, found = str(state.get("run_id", "")), stored_id(place)
            remedy = f"holds run {found:.8}, and state is of run {wanted:.8}; give the directory of that run"
            require("" in (wanted, found) or wanted == found, "run_dir", run_dir, remedy)
        return LocalRoles(place, goes_on=state is not None, needs_assistants=needs_assistants)
    except OSError as error:
        raise unwritable(Path(run_dir or "runs"), error) from None
