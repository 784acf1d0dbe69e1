"""Hears a run's statistics for as long as the page is there, whatever becomes of the broker; or that it was over."""

from __future__ import annotations

import errno
import logging
import threading
import time
from pathlib import Path
from typing import Protocol

import msgspec
import zmq

from autoassist.ended import Ended, read_ended
from autoassist.monitor.looking import Looking
from autoassist.top import place_of, unserved_words
from broker.run_lock import is_served
from protocol.errors import SettingError
from protocol.handshake import HandshakeWatch
from protocol.messages import PreviewReply
from protocol.report import REPORT_FILE
from protocol.security import Key, secure_client
from protocol.statistics import RunStatistics, decode_statistics

log = logging.getLogger("autoassist.monitor")

POLL_MS = 200
AGAIN_S = 5.0
"""Silence after which a new connection is made: the broker may have come back at another port, with other keys, or on
another host."""


class Listener(Protocol):
    """Whom the watch tells; from its own thread."""

    def heard(self, statistics: RunStatistics) -> None:
        """The run as it is."""

    def looked(self, reply: PreviewReply | None, trouble: str) -> None:
        """What an Assistant shows, or why nothing is shown."""

    def failed(self, why: str) -> None:
        """There are no statistics."""

    def is_looking(self) -> bool:
        """Whether anybody would see instances."""


class Watch:
    """A thread that tells a listener all that there is to hear."""

    def __init__(self, target: str, key: Key | None, listener: Listener) -> None:
        """Raises SettingError where ``target`` names no run."""
        self._target = target
        self._run_dir, self._address = place_of(target)
        self._has_heard = False
        self._told_end_of: Path | None = None
        self._key = key
        self._listener = listener
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for it."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            while not self._done.is_set():
                if self._was_over():  # its old address may be another run's by now
                    self._done.wait(AGAIN_S)  # and somebody may go on with it
                elif self._listen_if_possible(context):
                    self._explain_silence()
                self._look_again()
        except Exception as error:
            log.exception("the page hears nothing more")
            self._listener.failed(f"{type(error).__name__}: {error}")
        finally:
            context.destroy(linger=0)

    def _was_over(self) -> bool:
        """Whether the run had ended before anything was heard here, and no broker of this machine serves it."""
        if self._has_heard or self._run_dir is None or is_served(self._run_dir):
            self._told_end_of = None
            return False
        if self._told_end_of != self._run_dir and (ended := read_ended(self._run_dir)) is not None:
            self._told_end_of = self._run_dir
            self._tell_end(ended, self._run_dir)
        return self._told_end_of == self._run_dir

    def _tell_end(self, ended: Ended, run_dir: Path) -> None:
        """What the broker published last, or in words that it cannot be read."""
        if ended.statistics is None:
            over = f"the run is over ({ended.report.status}), and its store cannot be read"
            self._listener.failed(f"{run_dir}: {over}; see its {REPORT_FILE}")
            return
        self._listener.heard(ended.statistics)
        self._listener.looked(None, "The run is over: no Assistant is there to show instances.")

    def _explain_silence(self) -> None:
        """A run that was killed with its broker is silent for good, unless somebody goes on with it."""
        if self._done.is_set() or self._run_dir is None or is_served(self._run_dir):
            return
        if read_ended(self._run_dir) is None:
            self._listener.failed(f"{self._run_dir}: {unserved_words(self._run_dir)}")

    def _listen_if_possible(self, context: zmq.Context[zmq.Socket[bytes]]) -> bool:
        """A crowd at the page may hold all descriptors; once it has left there are some again. Whether nobody said
        anything at the end, a refusal neither."""
        try:
            return self._listen(context)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._listener.failed(f"{error}; raise the limit with ulimit -n before the page is started")
            self._done.wait(AGAIN_S)
            return False

    def _listen(self, context: zmq.Context[zmq.Socket[bytes]]) -> bool:
        """One connection, until it is silent for long."""
        with context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.CONFLATE, 1)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
            socket.setsockopt(zmq.IPV6, "[" in self._address)
            socket.subscribe(b"")
            if self._key is not None:
                secure_client(socket, self._key)
            watch = HandshakeWatch(context, socket, self._key.name if self._key is not None else "")
            looking = Looking(context, self._address.rpartition(":")[0], self._key)
            try:
                socket.connect(self._address)
                return self._take_all(socket, watch, looking)
            except zmq.ZMQError as error:
                self._listener.failed(f"{self._address}: {error}; give tcp://host:port")
                self._done.wait(AGAIN_S)
                return False
            finally:
                looking.close()
                watch.close()

    def _take_all(self, socket: zmq.Socket[bytes], watch: HandshakeWatch, looking: Looking) -> bool:
        last, told = time.monotonic(), ""
        while not self._done.is_set() and time.monotonic() - last < AGAIN_S:
            if (refusal := watch.refusal() or watch.doubt) and refusal != told:
                told = refusal
                self._listener.failed(refusal)
            if not socket.poll(POLL_MS):
                continue
            last = time.monotonic()
            try:
                statistics = decode_statistics(socket.recv())
            except msgspec.MsgspecError as error:
                why = f"its statistics cannot be read ({error}); let broker and page be of one version"
                self._listener.failed(why)
                continue
            self._has_heard = True
            self._listener.heard(statistics)
            if self._listener.is_looking():
                reply = looking.turn(statistics)
                self._listener.looked(reply, looking.trouble(statistics))
        return not told

    def _look_again(self) -> None:
        """A broker that was started again on the same run directory may publish elsewhere."""
        try:
            self._run_dir, self._address = place_of(self._target)
        except SettingError as error:
            self._listener.failed(str(error))
