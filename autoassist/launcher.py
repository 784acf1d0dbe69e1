"""The local launcher: each role as a process of its own, supervised, drained, nothing left behind."""

from __future__ import annotations

import json
import logging
import queue
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from autoassist.children import Child
from protocol.errors import AutoAssistError, RoleFailed, UserError
from protocol.signals import StopSignal

log = logging.getLogger("autoassist.run")

BOSS = "boss-0"
BROKER = "broker"
TICK_S = 0.25
BLAME_S = 3.0
"""How long a Boss may take to fail after its Goodbye has ended the broker."""


class ChildUserError(RoleFailed, UserError):
    """A role ended for a mistake of the user's."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """How the local launcher treats its processes."""

    assistant_restarts: int = 3
    """How often a crashed Assistant is started again."""

    broker_restarts: int = 3
    """How often a crashed broker is started again, on the same port and run directory; the Boss goes on meanwhile."""

    boss_restarts: int = 3
    """How often a Boss that was killed is started again, from its newest checkpoint."""

    drain_s: float = 15.0
    """How long the roles have to end in order after a stop, before they are killed."""


class Launcher:
    """Supervises the processes of one local run."""

    def __init__(self, settings: LaunchSettings, run_dir: Path, *, echo: bool) -> None:
        self.settings = settings
        self.run_dir = run_dir
        self.logs = run_dir / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.children: dict[str, Child] = {}
        self.failed: list[str] = []
        self.statistics_address = ""
        self._echo = echo
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def _child(self, name: str, arguments: list[str], environment: dict[str, str] | None = None) -> Child:
        child = Child(
            name,
            arguments,
            self.logs / f"{name}.log",
            on_line=self._heard,
            on_exit=lambda: self._wake.put(None),
            environment=environment or {},
        )
        self.children[name] = child
        return child

    def _heard(self, name: str, line: str) -> None:
        if self._echo:
            log.info("[%s] %s", name, line)

    def start_broker(self, arguments: list[str]) -> str:
        """Start the broker and wait until it listens; returns its address.

        Raises RoleFailed with its last words where it does not come up.
        """
        child = self._child(BROKER, arguments)
        child.start(announce=True)
        if not child.announcement:
            child.wait(self.settings.drain_s)
            raise self._failure(child)
        addresses = json.loads(child.announcement)
        self.statistics_address = addresses["statistics"]
        for option, address in (("--port", addresses["address"]), ("--statistics-port", addresses["statistics"])):
            child.arguments = with_option(child.arguments, option, address.rpartition(":")[2])
        return str(addresses["address"])

    def start_role(self, name: str, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        """Start an Assistant or the Boss."""
        self._child(name, arguments, environment).start()

    def supervise(self, stop: StopSignal) -> None:
        """Wait until the run is over; restart crashed Assistants.

        Raises RoleFailed with the last words of a role that failed for good.
        """
        while not stop.requested and (self.children[BOSS].is_running or self._resume_boss()):
            try:
                self._wake.get(timeout=TICK_S)
            except queue.Empty:
                continue
            self._look_after_children()
        if stop.requested:
            return
        boss = self.children[BOSS]
        if boss.code:
            raise self._failure(boss)

    def _resume_boss(self) -> bool:
        """Start a killed Boss again from its newest checkpoint; False where it has ended by itself, or too often."""
        boss = self.children[BOSS]
        if boss.code is None or boss.code >= 0 or boss.restarts >= self.settings.boss_restarts:
            return False
        if not self.children[BROKER].is_running:
            self._look_after_broker()
        boss.restarts += 1
        boss.arguments = [word for word in boss.arguments if word != "--resume"] + ["--resume"]
        log.warning("the Boss was killed (signal %d); resuming it from its newest checkpoint", -boss.code)
        boss.start()
        return True

    def _look_after_children(self) -> None:
        self._look_after_broker()
        for child in self.children.values():
            if child.name in (BOSS, BROKER) or child.is_running or child.code == 0 or child.name in self.failed:
                continue
            if child.code == UserError.exit_code or child.restarts >= self.settings.assistant_restarts:
                self.failed.append(child.name)
                log.error("%s failed for good: %s; the run goes on without it", child.name, child.last_words)
            else:
                child.restarts += 1
                log.warning("%s ended with %s; starting it again", child.name, child.code)
                child.start()

    def _look_after_broker(self) -> None:
        broker, boss = self.children[BROKER], self.children[BOSS]
        if not broker.code:
            return
        if broker.code > 0:
            boss.wait(BLAME_S)  # the broker also ends with an error where the Boss has failed: then blame the Boss
        if boss.code or broker.code == UserError.exit_code or broker.restarts >= self.settings.broker_restarts:
            raise self._failure(boss if boss.code else broker)
        broker.restarts += 1
        log.warning("the broker ended with %s (%s); starting it again", broker.code, broker.last_words)
        broker.start()

    def _failure(self, child: Child) -> AutoAssistError:
        text = f"{child.name} ended with code {child.code}: {child.last_words} (log: {child.log_file})"
        return ChildUserError(text) if child.code == UserError.exit_code else RoleFailed(text)

    def shut_down(self) -> None:
        """End everything in order: the Boss first, whose Goodbye ends the others; then by force."""
        deadline = time.monotonic() + self.settings.drain_s
        boss = self.children.get(BOSS)
        if boss is not None and boss.is_running:
            boss.tell(signal.SIGTERM)
            boss.wait(max(0.1, deadline - time.monotonic()))
        elif boss is None or boss.code:
            self._tell_all(signal.SIGTERM)
        if not self._wait_all(deadline):
            self._tell_all(signal.SIGTERM)
            if not self._wait_all(time.monotonic() + 3.0):
                self._tell_all(signal.SIGKILL)
                self._wait_all(time.monotonic() + 5.0)

    def _tell_all(self, number: signal.Signals) -> None:
        for child in self.children.values():
            child.tell(number)

    def _wait_all(self, deadline: float) -> bool:
        return all(child.wait(max(0.0, deadline - time.monotonic())) for child in self.children.values())


def with_option(words: list[str], option: str, value: str) -> list[str]:
    """The same words with an option set to another value."""
    if option not in words:
        return [*words, option, value]
    place = words.index(option)
    return [*words[: place + 1], value, *words[place + 2 :]]
