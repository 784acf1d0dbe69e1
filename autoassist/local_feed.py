"""``autoassist.Feed``: the Boss's feed, and ``Feed.local``, which starts broker and Assistants by itself."""

from __future__ import annotations

import json
import logging
import queue
import signal
import time
from collections.abc import Sized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.policies import require_policy
from autoassist.children import Child
from autoassist.local_arrays import as_features, as_labels
from autoassist.remembered import COMMAND_FILE, stored_end
from autoassist.run_directory import listens_within_s, new_folder, require_unused
from boss.feed import Feed as BossFeed
from boss.joining import settings_from
from boss.ranks import ranks_here
from broker.store import DATABASE
from protocol.errors import RoleFailed, SettingError
from protocol.report import REPORT_FILE
from protocol.settings import RunSettings, require

log = logging.getLogger("autoassist.local")

END_S = 15.0
GRACE_S = 3.0


class LocalRoles:
    """A broker and Assistants as processes of this machine, for a Boss that is the calling script.

    They end with the run, and with the thread that has started them (Linux): start them from the main thread. One that
    is killed is not started again: without its Assistant the run goes on unfiltered, without its broker the Boss draws
    its own batches and gives up after ``reconnect_timeout_s``. ``goes_on``: with the run of such roles, where the
    directory holds one.
    """

    def __init__(self, run_dir: Path, *, goes_on: bool = False) -> None:
        self._goes_on = goes_on and (run_dir / DATABASE).exists() and not (run_dir / COMMAND_FILE).exists()
        if not self._goes_on:
            require_unused(run_dir)
        elif stored_end(run_dir) == "finished":
            report = run_dir / REPORT_FILE
            raise SettingError(f"run_dir={run_dir}: its run is finished, see {report}; give another run_dir")
        self.run_dir = run_dir
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        self.children: list[Child] = []
        self.is_ending = False
        """Whether a role that ends is no news."""
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def _start(self, name: str, arguments: list[str], *, announce: bool = False) -> Child:
        child = Child(
            name,
            arguments,
            self.run_dir / "logs" / f"{name}.log",
            on_line=lambda name, line: log.debug("[%s] %s", name, line),
            on_news=lambda: self._hear_of(child),
            environment={"OMP_NUM_THREADS": "1"},
        )
        child.start(announce=announce)
        self.children.append(child)
        return child

    def _hear_of(self, child: Child) -> None:
        self._news.put(None)
        if child.code and not self.is_ending:
            words = "%s is gone (%s), and is not started again; the run goes on without it (log: %s)"
            log.warning(words, child.name, child.story, child.log_file)

    def start_broker(self) -> str:
        """Start the broker; returns its address. Raises RoleFailed with its last words where it does not come up."""
        words = ["broker", "--run-dir", str(self.run_dir), "--port", "0", "--announce"]
        words += ["--resume"] if self._goes_on else []
        deadline = time.monotonic() + listens_within_s(self.run_dir)
        broker = self._start("broker", words, announce=True)
        while not broker.announcement:
            if not broker.is_running or time.monotonic() > deadline:
                self.is_ending = True
                raise RoleFailed(f"the broker does not listen: {broker.last_words} (log: {broker.log_file})")
            self._wait(deadline)
        return str(json.loads(broker.announcement)["address"])

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

    @classmethod
    def local(
        cls,
        dataset: Sized,
        *,
        run_dir: str | Path | None = None,
        assistants: int = 1,
        features: NDArray[Any] | None = None,
        labels: NDArray[Any] | None = None,
        lengths: NDArray[Any] | None = None,
        settings: RunSettings | None = None,
        state: dict[str, Any] | None = None,
        **run_settings: Any,
    ) -> Feed:
        """Start a broker and Assistants here and join their run: nothing else is needed, in a notebook for one.

        ``features``, shape (n, d), finite, and ``labels``, (n,), whole numbers from 0 up, are for the Assistants; they
        learn from losses alone without them. ``lengths`` are the tokens of each instance, for ``max_tokens``.
        ``run_dir`` holds the report; a new directory under ``runs/`` if not given. ``state`` is a ``state_dict`` of an
        earlier feed of the run in ``run_dir``, which is gone on with, or ``{}`` for that run's beginning, or for a new
        one where there is none. The other arguments are the fields of ``RunSettings``.

        Raises SettingError for a bad setting, a directory that holds a run, without a ``state`` for it, or several
        ranks, RoleFailed where the broker does not start.
        """
        ranks = ranks_here()
        require(ranks == 1, "ranks", ranks, "Feed.local is for one; start `autoassist broker`, and use Feed.connect")
        has_run = run_dir is not None and (Path(run_dir) / DATABASE).exists()
        require(
            not state or has_run, "run_dir", run_dir, "holds no run; give the directory of the run that state is of"
        )
        run = settings or settings_from({**run_settings, "assistants": max(1, assistants)}, ranks=1)
        features, labels = as_features(features, len(dataset)), as_labels(labels, len(dataset))
        require_policy(run, len(dataset), labels)
        require(assistants >= 0, "assistants", assistants, "must not be negative")
        place = Path(run_dir) if run_dir is not None else new_folder("feed")
        roles = LocalRoles(place, goes_on=state is not None)
        try:
            address = roles.start_broker()
            count = 0 if run.policy == "uniform" else assistants
            roles.start_assistants(address, count, {"features": features, "labels": labels})
            feed = cls.connect(address, dataset=dataset, settings=run, lengths=lengths, state=state)
        except BaseException:
            roles.end(at_once=True)
            raise
        feed._roles = roles
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
        is_whole = super().close(reason)
        if self._roles is not None:
            self._roles.end()
        return is_whole
