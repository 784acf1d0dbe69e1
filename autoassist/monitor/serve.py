"""Puts the page on a port and serves it until a signal comes."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from autoassist.monitor.app import make_app
from autoassist.monitor.board import Board
from autoassist.monitor.gate import Admission
from autoassist.monitor.watch import Watch
from protocol.errors import PortInUse, SettingError
from protocol.messages import PreviewReply
from protocol.security import Key
from protocol.signals import StopSignal
from protocol.statistics import RunStatistics

log = logging.getLogger("autoassist.monitor")

TRIES = 20
"""Ports that are tried, the asked one first."""
MOST_REQUESTS = 64
"""At a time; the others are told to come again."""
ASK_S = 5.0
"""Time that a client has, from connecting, to send the head of its first request."""
MOST_SILENT = MOST_REQUESTS // 2
"""Clients at a time that have not asked yet; one more takes the place of the one that has been there longest."""
BACKLOG = MOST_REQUESTS // 4
"""Clients that wait to be taken. asyncio takes so many at once, before any of them can be hung up on, and with the
silent ones they must not fill all places; where there are no descriptors it tells of each."""
TELL_S = 60.0
"""How often at most it is said that there are no descriptors."""
GRACE_S = 1
"""How long a browser has to hear the end of what it is being told."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket at the port, or at the next one that is free.

    Raises PortInUse where none of them is, SettingError for an address that is not this host's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + TRIES, 65536)) if port else (0,):
        try:
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            remedy = "give a --port above 1023" if error.errno == errno.EACCES else "give an address of this host"
            raise SettingError(f"host={host} port={candidate}: {error.strerror}; {remedy}") from None
    raise PortInUse(f"{host}:{port} and the {TRIES - 1} ports after it are in use; choose another --port")


def address_of(listener: socket.socket) -> str:
    """What to open in a browser."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True)
class Site:
    """All that the page is served with."""

    target: str
    """Run directory or statistics address, as ``autoassist top`` takes it."""
    key: Key | None
    admission: Admission


def serve(listener: socket.socket, site: Site, stop: StopSignal, ready: Callable[[], None]) -> None:
    """Serve until a signal comes; ``ready`` is called once there is something to open.

    Raises SettingError where the target names no run.
    """
    asyncio.run(_serve(listener, site, stop, ready))


async def _serve(listener: socket.socket, site: Site, stop: StopSignal, ready: Callable[[], None]) -> None:
    loop, board = asyncio.get_running_loop(), Board()
    loop.set_exception_handler(Shortage())
    watch = Watch(site.target, site.key, _Teller(loop, board))
    server = Server(make_app(board, site.admission))
    loop.add_reader(stop.fileno(), lambda: _end(stop, board, server))
    watch.start()
    try:
        ready()
        await server.serve([listener])
    finally:
        loop.remove_reader(stop.fileno())
        await asyncio.to_thread(watch.close)


class Shortage:
    """The loop's exception handler: a lack of file descriptors is one line now and then, and not a traceback for each
    client that waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = -TELL_S

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What went wrong; all but that lack is left to asyncio."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
            return
        now = self._clock()
        if now - self._told_at < TELL_S:
            return
        self._told_at = now
        log.warning("%s: who asks for the page must wait until others leave; %s", error.strerror, _remedy(error.errno))


def _remedy(number: int) -> str:
    if number == errno.ENFILE:
        return "the whole host has no more; raise its fs.file-max, or end other processes"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"this process may have {most}; raise that with ulimit -n before it is started"


class Protocol(H11Protocol):
    """uvicorn's own, which lets a client that asks for nothing stay for ever, and count against the limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: it has so long to ask in full, and less where many are there that have not asked."""
        super().connection_made(transport)
        self.came_at = self.loop.time()
        self.loop.call_later(ASK_S, self.require_request)
        silent = [one for one in self.connections if isinstance(one, Protocol) and one.is_silent]
        if len(silent) > MOST_SILENT:
            min(silent, key=lambda one: one.came_at).require_request()

    @property
    def is_silent(self) -> bool:
        """Has not asked yet, and is not hung up on: of several that come at once each takes another one's place."""
        return self.cycle is None and not self.transport.is_closing()

    def require_request(self) -> None:
        """Hang up on who has not asked yet."""
        if self.cycle is None:
            self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn without its own way with signals, which would end the process by the signal and not in order."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                http=Protocol,
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=MOST_REQUESTS,
                timeout_graceful_shutdown=GRACE_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave them to StopSignal."""
        yield


class _Teller:
    """Hands what the watching thread hears to the board's loop, which may be over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, board: Board) -> None:
        self._loop = loop
        self._board = board

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def heard(self, statistics: RunStatistics) -> None:
        self._tell(self._board.show, statistics)

    def looked(self, reply: PreviewReply | None, trouble: str) -> None:
        self._tell(self._board.show_instances, reply, trouble)

    def failed(self, why: str) -> None:
        self._tell(self._board.fail, why)

    def is_looking(self) -> bool:
        return self._board.watchers > 0


def _end(stop: StopSignal, board: Board, server: uvicorn.Server) -> None:
    stop.drain()
    if stop.requested:
        board.close()
        server.should_exit = True
