"""A role's figures and health over HTTP, in a thread of its own. The same for every role.

The role's own loop waits for no client, and renders nothing. The thread answers GET and HEAD of ``/metrics`` and
``/healthz``, and hangs up after each answer. On loopback a request must name this host: no foreign page can read the
figures through a browser here. Whoever reaches the port is held to be hostile: a request has a greatest size and a
deadline, lines a greatest number, and the thread a greatest share of the interpreter. The price: who floods the port
can keep Prometheus out, though never hold the role up.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Generic, TypeVar

from protocol.errors import PortInUse, SettingError
from protocol.hosts import is_this_host, names_of
from protocol.settings import require

LIVE_S = 5.0
"""Time without a turn of the role's loop from which it counts as stuck."""
MAX_LINES = 32
"""Clients at a time; one more takes the place of the one that has been there longest."""
MAX_REQUEST = 8192
"""Bytes of a request's head."""
DEADLINE_S = 5.0
"""Time that a client has, from connecting to having read its answer."""
TURN_S = 0.01
"""Least time between two turns of the thread, so that a flood of requests leaves the interpreter to the role."""
CHUNK = 65536
BACKLOG = 512
"""Clients that wait to be let in; of a crowd that sends nothing, so many are let in and hung up on within moments."""
METHODS = ("GET", "HEAD")
PLAIN = "text/plain; charset=utf-8"
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ExporterSettings:
    """Where a role serves its metrics, if it does."""

    http_port: int | None = None
    """TCP port of /metrics (Prometheus) and /healthz; 0 for any free one. Not served if not given."""

    http_host: str = "127.0.0.1"
    """Address of it. There is no instance data in it, so it may be reachable from beyond this host."""

    def __post_init__(self) -> None:
        in_range = self.http_port is None or 0 <= self.http_port <= 65535
        require(in_range, "http_port", self.http_port, "must lie in 0 … 65535")


@dataclass(slots=True, eq=False)
class Line:
    """One client: its request so far, then what is left of the answer, then nothing until it hangs up."""

    socket: socket.socket
    deadline: float
    request: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None


class Exporter(Generic[T]):
    """Serves what ``source`` gives: the figures, and when the role's loop has turned last; None while it starts."""

    def __init__(
        self,
        settings: ExporterSettings,
        who: str,
        source: Callable[[], tuple[T, float] | None],
        render: Callable[[T], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises PortInUse or SettingError where the address cannot be had."""
        self._who = who
        self._source = source
        self._render = render
        self._clock = clock
        self._rendered: tuple[T, bytes] | None = None
        self._listener = _listen(settings)
        host = str(self._listener.getsockname()[0])
        self._names = names_of(host) if ip_address(host).is_loopback else frozenset[str]()
        """Beyond loopback a name is given to it by whoever calls it: a service, a container, a host of another net."""
        self._wake, self._waker = socket.socketpair()
        self._lines: list[Line] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="exporter", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What to give to curl or to Prometheus."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Hang up on everybody and give the port back."""
        self._stopping.set()
        self._waker.send(b"!")
        self._thread.join()
        for line in list(self._lines):
            self._drop(line)
        self._selector.close()
        for end in (self._listener, self._wake, self._waker):
            end.close()

    def answer(self, method: str, path: str) -> tuple[str, str, bytes]:
        """Status, content type and body."""
        if method not in METHODS:
            return "405 Method Not Allowed", PLAIN, b"only GET is answered\n"
        if path not in ("/metrics", "/healthz"):
            return "404 Not Found", PLAIN, b"here are /metrics and /healthz\n"
        found = self._source()
        if found is None:
            return "503 Service Unavailable", PLAIN, f"the {self._who} is starting\n".encode()
        figures, turned_at = found
        age = self._clock() - turned_at
        if age > LIVE_S:  # figures of a loop that is stuck must not pass for those of now
            return "503 Service Unavailable", PLAIN, f"the {self._who}'s loop has been stuck for {age:.0f} s\n".encode()
        if path == "/healthz":
            return "200 OK", PLAIN, b"ok\n"
        if self._rendered is None or self._rendered[0] is not figures:
            self._rendered = figures, self._render(figures)
        return "200 OK", EXPOSITION, self._rendered[1]

    def _serve(self) -> None:
        while not self._stopping.is_set():
            due = min((line.deadline for line in self._lines), default=None)
            ready = self._selector.select(None if due is None else max(0.0, due - time.monotonic()))
            for key, _ in ready:
                if isinstance(key.data, Line) and key.data in self._lines:
                    self._advance(key.data)
            for _ in range(MAX_LINES):  # after the others, so that who has asked is not sent away for who has not
                if not self._accept():
                    break
            now = time.monotonic()
            for line in [line for line in self._lines if line.deadline <= now]:
                self._drop(line)
            self._stopping.wait(TURN_S)

    def _accept(self) -> bool:
        """Whether one more client was there."""
        try:
            client, _ = self._listener.accept()
        except OSError:  # nobody waits, it is gone again, or this process may open no more files
            return False
        client.setblocking(False)
        if len(self._lines) >= MAX_LINES:
            self._drop(self._lines[0])
        line = Line(client, time.monotonic() + DEADLINE_S)
        self._lines.append(line)
        self._selector.register(client, selectors.EVENT_READ, line)
        return True

    def _advance(self, line: Line) -> None:
        try:
            if line.answer is None:
                self._read(line)
            elif line.answer:
                self._write(line)
            elif not line.socket.recv(CHUNK):  # what it still sends is read away, or it would lose the answer
                self._drop(line)
        except BlockingIOError:
            return
        except OSError:
            self._drop(line)

    def _read(self, line: Line) -> None:
        received = line.socket.recv(MAX_REQUEST)
        line.request += received
        if not received:
            self._drop(line)
            return
        is_head = line.request.startswith(b"HEAD ")
        if b"\r\n\r\n" in line.request:
            status, kind, body = self._answer_to(bytes(line.request))
        elif len(line.request) > MAX_REQUEST:
            status, kind, body = "431 Request Header Fields Too Large", PLAIN, b""
        else:
            return
        line.request.clear()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        head += f"Allow: {', '.join(METHODS)}\r\n" if status.startswith("405") else ""
        line.answer = memoryview(f"{head}Connection: close\r\n\r\n".encode() + (b"" if is_head else body))
        self._selector.modify(line.socket, selectors.EVENT_WRITE, line)
        self._write(line)

    def _answer_to(self, request: bytes) -> tuple[str, str, bytes]:
        first, *headers = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "400 Bad Request", PLAIN, b""
        called = [value for name, _, value in (line.partition(":") for line in headers) if name.lower() == "host"]
        if self._names and not all(is_this_host(name, self._names) for name in called):
            return "421 Misdirected Request", PLAIN, b"no host of this name is here\n"
        return self.answer(words[0], words[1].partition("?")[0])

    def _write(self, line: Line) -> None:
        assert line.answer is not None
        line.answer = line.answer[line.socket.send(line.answer[:CHUNK]) :]
        if not line.answer:
            line.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(line.socket, selectors.EVENT_READ, line)

    def _drop(self, line: Line) -> None:
        self._lines.remove(line)
        self._selector.unregister(line.socket)
        line.socket.close()


def _listen(settings: ExporterSettings) -> socket.socket:
    host, port = settings.http_host, settings.http_port or 0
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{host}:{port} is in use; choose another --http-port or stop the process that listens there"
            ) from None
        raise SettingError(f"http_host={host}: {error}; give an address of this host") from None
    listener.setblocking(False)
    return listener
