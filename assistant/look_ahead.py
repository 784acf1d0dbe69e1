"""Losses known afresh: beside an Assistant runs the Boss's own network, over what is soon to be offered.

The Boss leaves its weights in a file now and then (a snapshot). A process of its own takes the newest, and computes the
losses of the instances to come, on the CPU; the Assistant's loop collects them before it scores. It waits for nothing
of this: what was not looked at in time is judged by what is known of it otherwise.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.ahead import Offered
from assistant.looker import OFFERED, Fresh, Said
from protocol.messages import Window
from protocol.processes import ending

if TYPE_CHECKING:
    from workloads import Workload

log = logging.getLogger("autoassist.assistant")

START = "import sys; from assistant.looker import look; look(*map(int, sys.argv[1:]))"
END_S = 5.0
"""How long a process that was killed may take to be gone, when all is over."""


class LookAhead:
    """The Assistant's end; but for ``close`` nothing here waits.

    ``load`` makes the workload once more, in the process that looks, so it must be picklable; ``dataset_id`` is what
    its fingerprint must say there. Price: that process has the data and torch in memory, and takes the time that no
    other process wants.
    """

    def __init__(self, load: Callable[[], Workload], path: Path, dataset_id: str) -> None:
        self.path = path
        self._beginning = (load, path, dataset_id)
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: list[subprocess.Popen[bytes]] = []
        self._down: Connection
        self._up: Connection
        self._ready: select.poll

    @property
    def process_id(self) -> int | None:
        """Of the process that looks; None where there is none."""
        return self._process.pid if self._process is not None else None

    def start(self, n: int, seed: int) -> None:
        """Once the run is known; another time, of a run that is joined anew, it begins anew."""
        self.stop()
        try:
            self._begin(n, seed)
        except OSError as error:
            log.warning("no looking ahead: its process cannot be started (%s)", error)

    def _begin(self, n: int, seed: int) -> None:
        with ExitStack() as own, ExitStack() as given:
            heard, self._down = Pipe(duplex=False)
            given.enter_context(heard)
            own.enter_context(self._down)
            self._up, said = Pipe(duplex=False)
            own.enter_context(self._up)
            given.enter_context(said)
            self._process = _started((heard.fileno(), said.fileno()))
            own.pop_all()
        log.info("looking ahead with %s: process %d, on idle time alone", self.path, self._process.pid)
        self._ready = select.poll()
        self._ready.register(self._up.fileno(), select.POLLIN)
        with suppress(BrokenPipeError):  # ``collect`` finds out what has become of it
            self._down.send((*self._beginning, n, seed))
        os.set_blocking(self._down.fileno(), False)

    def offered(self, window: Window) -> None:
        """The run is there now. Where the process has not heard of very many windows, it is not told of this one."""
        if self._process is None or not len(window.ids):
            return
        with suppress(BlockingIOError, BrokenPipeError):
            self._down.send_bytes(OFFERED.pack(*Offered.of(window.epoch, window.ids)))

    def collect(self) -> list[Fresh]:
        """What was found since the last time."""
        found = []
        while self._process is not None and self._ready.poll(0):
            try:
                came = self._up.recv()
            except (EOFError, OSError):  # killed between two bytes, too
                self._goes(self._process)
                break
            if isinstance(came, Said):
                log.log(came.level, "%s", came.text)
            else:
                found.append(came)
        return found

    def _goes(self, process: subprocess.Popen[bytes]) -> None:
        """It has said its last word; how it ends is known a little later."""
        code = process.poll()
        if code is None:
            return
        if code:  # otherwise it has said why
            log.warning("no looking ahead any more: its process %s; the run goes on without", ending(code))
        self.stop()

    def stop(self) -> None:
        """Look no more, whatever is being looked at."""
        process, self._process = self._process, None
        self._killed = [one for one in self._killed if one.poll() is None]
        if process is not None:
            self._down.close()
            self._up.close()
            process.kill()
            self._killed.append(process)

    def close(self) -> None:
        """Look no more, and leave no process behind."""
        self.stop()
        for process in self._killed:
            with suppress(subprocess.TimeoutExpired):  # there is no idle time on this host
                process.wait(END_S)


def _started(ends: tuple[int, int]) -> subprocess.Popen[bytes]:
    """Not by multiprocessing: a fork would have torch's threads without what they do, and with its spawning comes a
    third process."""
    command = [sys.executable, "-P", "-c", START, *map(str, ends), str(os.getpid())]
    path = [entry or str(Path.cwd()) for entry in sys.path if isinstance(entry, str)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    # In its own process group, a Ctrl-C at the terminal is the Assistant's; in this session its priority counts.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=ends, env=environment, process_group=0)
