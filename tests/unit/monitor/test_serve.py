"""The page's server: who asks for nothing keeps nobody out, and floods no log."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from autoassist.monitor import serve as serving
from autoassist.monitor.gate import Admission
from autoassist.monitor.serve import BACKLOG, MOST_REQUESTS, MOST_SILENT, TELL_S, Server, Shortage, Site, listen, serve
from protocol.signals import StopSignal

HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = HALF + b"Connection: close\r\n\r\n"
DEADLINE_S = 30.0
AT_ONCE = BACKLOG // 2
"""Clients for whom there is room to wait while the loop stands still."""

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def lines_to_a_server(size: int, request: bytes) -> AsyncIterator[list[Line]]:
    """So many clients that have sent this, one after the other."""
    with listen("127.0.0.1", 0) as listener:
        server = Server(PlainTextResponse("here"))
        serving_it = asyncio.create_task(server.serve([listener]))
        lines: list[Line] = []
        try:
            for _ in range(size):
                lines.append(await asyncio.open_connection(*listener.getsockname()))
                lines[-1][1].write(request)
            yield lines
        finally:
            for _, writer in lines:
                writer.close()
            server.should_exit = True
            await serving_it


async def said(reader: asyncio.StreamReader) -> bytes:
    """All until the server hangs up, however it does so."""
    try:
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    except ConnectionError:
        return b""


def is_hung_up(reader: asyncio.StreamReader) -> bool:
    return reader.at_eof() or reader.exception() is not None


def test_hundreds_of_half_open_requests_keep_nobody_from_the_page() -> None:
    async def beside(size: int) -> tuple[bytes, int]:
        async with lines_to_a_server(size, HALF) as crowd:
            host, port = crowd[0][1].get_extra_info("peername")
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(WHOLE)
            answer = await said(reader)
            writer.close()
            return answer, sum(not is_hung_up(one) for one, _ in crowd)

    answer, held = asyncio.run(beside(300))
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"here")
    assert held <= MOST_SILENT < MOST_REQUESTS


def test_of_silent_clients_that_come_at_once_each_takes_the_place_of_another() -> None:
    """They are all taken before the loop gets to close a line."""

    async def crowded() -> int:
        async with lines_to_a_server(MOST_SILENT, HALF) as crowd:
            address = crowd[0][1].get_extra_info("peername")
            at_once = [socket.create_connection(address) for _ in range(AT_ONCE)]  # the loop stands still meanwhile
            reader, writer = await asyncio.open_connection(*address)
            writer.write(WHOLE)
            assert (await said(reader)).endswith(b"here")
            writer.close()
            for one in at_once:
                one.close()
            return sum(is_hung_up(one) for one, _ in crowd)

    assert asyncio.run(crowded()) >= AT_ONCE


def test_who_is_slow_and_alone_may_take_its_time() -> None:
    async def slow() -> bytes:
        async with lines_to_a_server(1, HALF) as ((reader, writer),):
            await asyncio.sleep(0)
            writer.write(b"Connection: close\r\n\r\n")
            return await said(reader)

    assert asyncio.run(slow()).endswith(b"here")


def test_who_never_ends_its_request_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ASK_S", 0.05)

    async def silent() -> list[bytes]:
        async with lines_to_a_server(2, HALF) as lines:
            return [await said(reader) for reader, _ in lines]

    assert asyncio.run(silent()) == [b"", b""]


class FakeLoop(asyncio.SelectorEventLoop):
    """Keeps what is left to asyncio."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[dict[str, Any]] = []

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.left.append(context)


def warnings_of(handler: Shortage, *errors: BaseException | None, log: pytest.LogCaptureFixture) -> list[str]:
    """Of these, told as asyncio does; nothing else is told, and nothing is left to asyncio."""
    log.clear()
    loop = FakeLoop()
    loop.set_exception_handler(handler)
    for error in errors:
        loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": error})
    loop.close()
    assert not loop.left and {record.name for record in log.records} <= {"autoassist.monitor"}
    return log.messages


def lack(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_lack_of_descriptors_is_one_line_a_minute_with_the_limit_and_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    handler = Shortage(lambda: now)
    with caplog.at_level(logging.WARNING):
        (said,) = warnings_of(handler, *[lack(errno.EMFILE)] * 2000, log=caplog)
        assert f"may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]};" in said and "ulimit -n" in said
        now = TELL_S - 1.0
        assert warnings_of(handler, lack(errno.EMFILE), log=caplog) == []
        now = TELL_S
        (said,) = warnings_of(handler, *[lack(errno.ENFILE)] * 2000, log=caplog)
        assert "fs.file-max" in said and "ulimit" not in said, "the limit of the host is another"


@pytest.mark.parametrize("error", [None, ValueError("a bug"), lack(errno.ENOMEM)], ids=repr)
def test_whatever_else_goes_wrong_in_the_loop_is_told_as_asyncio_does(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    loop, context = FakeLoop(), {"message": "it went wrong"} | ({"exception": error} if error is not None else {})
    handler = Shortage()
    handler(loop, context)
    handler(loop, context)
    loop.close()
    assert loop.left == [context, context] and not caplog.records


def test_the_page_is_served_under_that_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []

    async def looked(self: Server, sockets: object) -> None:
        found.append(asyncio.get_running_loop().get_exception_handler())

    monkeypatch.setattr(Server, "serve", looked)
    site = Site("tcp://127.0.0.1:9", None, Admission(token="", hosts=frozenset(), cookie="c"))
    with listen("127.0.0.1", 0) as listener, StopSignal() as stop:
        serve(listener, site, stop, lambda: None)
    assert [type(one) for one in found] == [Shortage]


def test_so_few_are_taken_at_once_that_the_silent_ones_leave_places_to_others() -> None:
    """asyncio takes as many at once as may wait, before it hangs up on any."""
    assert Server(PlainTextResponse("here")).config.backlog + MOST_SILENT < MOST_REQUESTS
