"""The page's server: who asks for nothing keeps nobody out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.responses import PlainTextResponse

from autoassist.monitor import serve as serving
from autoassist.monitor.serve import MOST_REQUESTS, MOST_SILENT, Server, listen

HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = HALF + b"Connection: close\r\n\r\n"
DEADLINE_S = 30.0

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
