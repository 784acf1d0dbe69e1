"""Losses known afresh: beside an Assistant runs the Boss's own network, over what is soon to be offered.

The Boss leaves its weights in a file now and then (a snapshot). A process of its own takes the newest, and computes the
losses of the instances to come, on the CPU; the Assistant's loop collects them before it scores. It waits for nothing
of this: what was not looked at in time is judged by what is known of it otherwise.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.ahead import Offered
from assistant.looker import OFFERED, Fresh, Said
from protocol.messages import Window

if TYPE_CHECKING:
    from workloads import Workload

log = logging.getLogger("autoassist.assistant")

START = "import sys; from assistant.looker import look; look(*map(int, sys.argv[1:]))"
END_S = 5.0
"""How long a process that was killed may take to be gone."""


class LookAhead:
    """The Assistant's end; but for ``start`` and ``close`` nothing here waits.

    ``load`` makes the workload once more, in the process that looks, so it must be picklable. Price: that process has
    the data and torch in memory, and takes the time that no other process wants.
    """

    def __init__(self, load: Callable[[], Workload], path: Path) -> None:
        self.path = path
        self._load = load
        self._process: subprocess.Popen[bytes] | None = None
        self._down: Connection
        self._up: Connection
        self._ready: select.poll

    @property
    def process_id(self) -> int | None:
        """Of the process that looks; None where there is none."""
        return self._process.pid if self._process is not None else None

    def start(self, n: int, seed: int) -> None:
        """Once the run is known; another time, of a run that is joined anew, it begins anew."""
        self.close()
        heard, self._down = Pipe(duplex=False)
        self._up, said = Pipe(duplex=False)
        self._ready = select.poll()
        self._ready.register(self._up.fileno(), select.POLLIN)
        try:
            self._process = self._started((heard.fileno(), said.fileno()))
        except OSError as error:
            log.warning("no looking ahead: its process cannot be started (%s)", error)
            self._close_pipes()
        else:
            self._down.send((self._load, self.path, n, seed))
            os.set_blocking(self._down.fileno(), False)
        finally:
            heard.close()
            said.close()

    def _started(self, ends: tuple[int, int]) -> subprocess.Popen[bytes]:
        """Not by multiprocessing: a fork would have torch's threads without what they do, and spawning has a third
        process beside it."""
        command = [sys.executable, "-c", START, *map(str, ends)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=ends, env=environment)

    def offered(self, window: Window) -> None:
        """The run is there now. Where the process has not heard of very many windows, it is not told of this one."""
        if self._process is None or not len(window.ids):
            return
        with suppress(BlockingIOError, BrokenPipeError):  # ``collect`` finds out what has become of it
            self._down.send_bytes(OFFERED.pack(*Offered.of(window.epoch, window.ids)))

    def collect(self) -> list[Fresh]:
        """What was found since the last time."""
        found = []
        while self._process is not None and self._ready.poll(0):
            try:
                came = self._up.recv()
            except EOFError:
                self._is_gone(self._process)
                break
            if isinstance(came, Said):
                log.log(came.level, "%s", came.text)
            else:
                found.append(came)
        return found

    def _is_gone(self, process: subprocess.Popen[bytes]) -> None:
        code = _ended(process)
        if code:  # otherwise it has said why
            ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            log.warning("no looking ahead any more: its process %s; the run goes on without", ending)
        self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            self._close_pipes()
            process.kill()
            _ended(process)

    def _close_pipes(self) -> None:
        self._down.close()
        self._up.close()


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit code; None where the host's cores have no time for it to end."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(END_S)
    return None
