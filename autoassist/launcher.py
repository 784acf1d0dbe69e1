"""The local launcher: each role as a process of its own, supervised, drained, nothing left behind."""

from __future__ import annotations

import json
import logging
import math
import queue
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from autoassist.children import Child
from autoassist.notices import Notices
from autoassist.remembered import stored_end
from autoassist.run_directory import listens_within_s, log_bytes
from broker.store import DATABASE, LOSS_LOG
from protocol.errors import AutoAssistError, RoleFailed, UserError
from protocol.logs import complaint_in, joined
from protocol.settings import require
from protocol.signals import StopSignal

log = logging.getLogger("autoassist.run")

BOSS = "boss-0"
BROKER = "broker"
TICK_S = 0.25
END_S = 30.0
"""How long roles have to end."""
BLAME_S = 20.0
"""How long a Boss may take to fail after its Goodbye has ended the broker."""
GRACE_S = 3.0
"""How long everybody has to end once nothing is left to save, or the order is lost."""


class ChildUserError(RoleFailed, UserError):
    """A role ended for a mistake of the user's."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """How the local launcher treats its processes."""

    assistant_restarts: int = 3
    """How often a crashed Assistant is started again."""

    broker_restarts: int = 3
    """How often a killed broker is started again, on the same port and run directory; the Boss goes on meanwhile. A
    broker that ends with an error of its own is not: a disk that was full for it stays full."""

    boss_restarts: int = 3
    """How often a Boss that was killed is started again, from its newest checkpoint."""

    drain_s: float = 15.0
    """How long the roles have to end in order after a stop, before they are killed; a second signal kills at once."""

    def __post_init__(self) -> None:
        for name in ("assistant_restarts", "broker_restarts", "boss_restarts"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        is_time = math.isfinite(self.drain_s) and self.drain_s > 0
        require(is_time, "drain_s", self.drain_s, "must be a positive number of seconds")


class Launcher:
    """Supervises the processes of one local run."""

    def __init__(
        self,
        settings: LaunchSettings,
        run_dir: Path,
        stop: StopSignal,
        notices: Notices,
        *,
        echo: bool = True,
        needs_assistants: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.run_dir = run_dir
        self.children: dict[str, Child] = {}
        self.failed: list[str] = []
        self.is_void = False
        """Whether a mistake of the user's, or a broker that did not start, has ended all before the first step."""
        self.statistics_address = ""
        self._stop = stop
        self._notices = notices
        self._echo = echo
        self._needs_assistants = needs_assistants
        self._environment = environment or {}
        self._trained_before = self._loss_log_size()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        stop.on_stop = lambda: self._wake.put(None)

    def _child(self, name: str, arguments: list[str], environment: dict[str, str] | None = None) -> Child:
        child = Child(
            name,
            arguments,
            self.run_dir / "logs" / f"{name}.log",
            on_line=self._heard,
            on_news=lambda: self._wake.put(None),
            environment={**self._environment, **(environment or {})},
        )
        self.children[name] = child
        return child

    def _heard(self, name: str, line: str) -> None:
        """A role's last error is not echoed: what comes of it is said with it, once."""
        said = complaint_in(line)
        if (self._notices.hears(name, line) or self._echo) and not (said is not None and said.ends):
            log.info("[%s] %s", name, line, extra={"echo": line})

    # Starting

    def start_broker(self, arguments: list[str]) -> str:
        """Start the broker and wait until it listens; returns its address, "" where a stop came first.

        Raises RoleFailed with its last words where it does not come up.
        """
        child = self._child(BROKER, arguments)
        child.start(announce=True)
        allowed_s = listens_within_s(self.run_dir)
        deadline = time.monotonic() + allowed_s
        while not child.announcement and child.is_running and not self._stop.requested:
            if time.monotonic() > deadline:
                self.is_void = True
                raise RoleFailed(f"{BROKER} does not listen after {allowed_s:.0f} s: {child.last_words}")
            self._sleep(TICK_S)
        if self._stop.requested:
            return ""
        if not child.announcement:
            raise self._failure(child)
        addresses = json.loads(child.announcement)
        self.statistics_address = addresses["statistics"]
        joined(addresses["run"])
        for option, address in (("--port", addresses["address"]), ("--statistics-port", addresses["statistics"])):
            child.arguments = with_option(child.arguments, option, address.rpartition(":")[2])
        if "http" in addresses:  # a broker that is started again is where Prometheus looks for it
            child.arguments = with_option(child.arguments, "--http-port", addresses["http"].rpartition(":")[2])
        return str(addresses["address"])

    def start_role(self, name: str, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        """Start an Assistant or the Boss."""
        self._child(name, arguments, environment).start()

    # Watching

    def supervise(self) -> None:
        """Wait until the run is over or a signal comes; restart what may be restarted.

        Raises RoleFailed with the last words of a role that failed for good, or where the run directory is gone.
        """
        while not self._stop.requested and (self.children[BOSS].is_running or self._resume_boss()):
            self._sleep(TICK_S)
            self._look_after_children()
        if self._stop.requested:
            return
        self._require_run_dir()
        boss = self.children[BOSS]
        if boss.code:
            raise self._failure(boss)

    def _look_after_children(self) -> None:
        self._require_run_dir()
        self._look_after_broker()
        for child in self.children.values():
            if child.name in (BOSS, BROKER, *self.failed) or child.code is None:
                continue
            if child.code == 0:
                self._require_end(child)
            elif child.code == UserError.exit_code or child.restarts >= self.settings.assistant_restarts:
                self._give_up(child)
            else:
                child.restarts += 1
                log.warning("%s %s; starting it again", child.name, child.story)
                child.start()

    def _require_end(self, assistant: Child) -> None:
        """In deterministic mode an Assistant may leave once the run has ended, not where somebody has stopped it."""
        if self._needs_assistants and self.children[BOSS].is_running and not stored_end(self.run_dir):
            self._give_up(assistant)

    def _give_up(self, assistant: Child) -> None:
        """In deterministic mode nobody else may score an Assistant's windows, so the Boss would wait for ever."""
        if self._needs_assistants:
            raise self._failure(assistant, "; in deterministic mode the run cannot go on without it")
        self.failed.append(assistant.name)
        log.warning("%s failed for good: %s; the run goes on without it", assistant.name, assistant.last_words)

    def _look_after_broker(self) -> None:
        broker, boss = self.children[BROKER], self.children[BOSS]
        if not broker.code:
            return
        if broker.code < 0 and broker.restarts < self.settings.broker_restarts:
            broker.restarts += 1
            log.warning("the broker %s; starting it again", broker.ending)
            broker.start()
            return
        if not broker.complaint and boss.wait(BLAME_S) and boss.code:
            raise self._failure(boss)  # the broker also ends with code 1 where the Boss has failed
        raise self._failure(broker, f"; --resume {self.run_dir} goes on with the run" if self.has_trained else "")

    def _resume_boss(self) -> bool:
        """Start a killed Boss again from its newest checkpoint; False where it has ended by itself, or too often."""
        boss, broker = self.children[BOSS], self.children[BROKER]
        if boss.code is None or boss.code >= 0 or boss.restarts >= self.settings.boss_restarts or broker.code == 0:
            return False
        self._look_after_children()
        boss.restarts += 1
        boss.arguments = [word for word in boss.arguments if word != "--resume"] + ["--resume"]
        log.warning("the Boss %s; resuming it from its newest checkpoint", boss.ending)
        boss.start()
        return True

    @property
    def broker_words(self) -> str:
        """How the broker ended, and the last that it said."""
        return f"{BROKER} {self.children[BROKER].ending}: {self.children[BROKER].last_words}"

    @property
    def has_trained(self) -> bool:
        """Whether this launch has trained a step."""
        return self._loss_log_size() != self._trained_before

    def _loss_log_size(self) -> int:
        return log_bytes(self.run_dir, (LOSS_LOG,))

    @property
    def _run_dir_is_gone(self) -> bool:
        return BOSS in self.children and not (self.run_dir / DATABASE).exists()

    def _require_run_dir(self) -> None:
        if self._run_dir_is_gone:
            raise RoleFailed(
                f"run_dir={self.run_dir}: is gone, deleted or moved while the run used it; what was trained is lost "
                f"unless it was moved: then --resume its new place"
            )

    def _failure(self, child: Child, consequence: str = "") -> AutoAssistError:
        is_mistake = child.code == UserError.exit_code
        self.is_void = (is_mistake or BOSS not in self.children) and not self.has_trained
        text = f"{child.name} {child.story}{consequence}"
        if not self.is_void:
            text += f" (log: {child.log_file})"
        return ChildUserError(text) if is_mistake else RoleFailed(text)

    # Ending

    def shut_down(self) -> None:
        """End everything in order: the Boss first, whose Goodbye ends the others; then by force.

        Another signal meanwhile kills at once; and so does a run directory that is gone, since a role that saves
        itself would make it again.
        """
        heard = self._stop.count
        if self._stop.requested:
            log.info("stopping in order; another signal kills at once")
        if not self._run_dir_is_gone and not self._ends_in_order(heard):
            self._tell_all(signal.SIGTERM)
            self._wait_all(time.monotonic() + GRACE_S, heard)
        self._tell_all(signal.SIGKILL)
        self._wait_all(time.monotonic() + END_S)

    def _ends_in_order(self, heard: int) -> bool:
        """Whether all end by themselves: the Boss says Goodbye, which ends the others; each on its own where the broker
        is gone. A Boss that has not trained a step has nothing to save and is not waited for.
        """
        boss, broker = self.children.get(BOSS), self.children.get(BROKER)
        if boss is None or broker is None or (boss.is_running and not self.has_trained):
            return False
        deadline = time.monotonic() + self.settings.drain_s
        if broker.code:
            self._tell_all(signal.SIGTERM)
        elif boss.is_running:
            boss.tell(signal.SIGTERM)
            self._wait_all(deadline, heard, [boss])
        if not broker.code and boss.code != 0:
            return False
        self._wait_all(deadline, heard, [broker])
        self._tell_all(signal.SIGTERM)  # an Assistant that came too late for a short run would look for the broker
        return self._wait_all(deadline, heard)

    def _tell_all(self, number: signal.Signals) -> None:
        for child in self.children.values():
            child.tell(number)

    def _wait_all(self, deadline: float, heard: int | None = None, children: Collection[Child] = ()) -> bool:
        """Whether these children, all if none is named, end before ``deadline`` and before another signal comes."""
        children = children or self.children.values()
        while any(child.is_running for child in children):
            left = deadline - time.monotonic()
            if left <= 0 or (heard is not None and self._stop.count > heard):
                return False
            self._sleep(min(TICK_S, left))
        return True

    def _sleep(self, timeout_s: float) -> None:
        """Until something happens, but not longer."""
        try:
            self._wake.get(timeout=timeout_s)
        except queue.Empty:
            return


def with_option(words: list[str], option: str, value: str) -> list[str]:
    """The same words with an option set to another value."""
    if option not in words:
        return [*words, option, value]
    place = words.index(option)
    return [*words[: place + 1], value, *words[place + 2 :]]
