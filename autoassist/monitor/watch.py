"""Hears a run's statistics for as long as the page is there, whatever becomes of the broker."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

import msgspec
import zmq

from autoassist.monitor.looking import Looking
from autoassist.top import statistics_address
from protocol.errors import SettingError
from protocol.handshake import HandshakeWatch
from protocol.messages import PreviewReply
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
        self._address = statistics_address(target)
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
                self._listen(context)
                self._look_again()
        except Exception as error:
            log.exception("the page hears nothing more")
            self._listener.failed(f"{type(error).__name__}: {error}")
        finally:
            context.destroy(linger=0)

    def _listen(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
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
                self._take_all(socket, watch, looking)
            except zmq.ZMQError as error:
                self._listener.failed(f"{self._address}: {error}; give tcp://host:port")
                self._done.wait(AGAIN_S)
            finally:
                looking.close()
                watch.close()

    def _take_all(self, socket: zmq.Socket[bytes], watch: HandshakeWatch, looking: Looking) -> None:
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
            self._listener.heard(statistics)
            if self._listener.is_looking():
                reply = looking.turn(statistics)
                self._listener.looked(reply, looking.trouble(statistics))

    def _look_again(self) -> None:
        """A broker that was started again on the same run directory may publish elsewhere."""
        try:
            self._address = statistics_address(self._target)
        except SettingError as error:
            self._listener.failed(str(error))
