"""The server's paths: the page, its files, the description of its charts, and the stream of news."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from autoassist.monitor.board import Board
from autoassist.monitor.gate import Admission, Gate
from autoassist.monitor.series import description

STATIC = Path(__file__).parent / "static"
EVENTS = "text/event-stream"
MOST_STREAMS = 16
"""Browsers that hear the news at a time."""


def make_app(board: Board, admission: Admission) -> ASGIApp:
    """The page of a board, behind its gate."""

    def page(request: Request) -> Response:
        del request
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    def charts(request: Request) -> Response:
        del request
        return _json(description())

    def latest(request: Request) -> Response:
        """The latest statistics, for scripts."""
        del request
        return _json({**board.news(max(0, board.number - 1))})

    def picture(request: Request) -> Response:
        found = board.picture(request.path_params["run"], request.path_params["instance"])
        if found is None:
            return PlainTextResponse("no such picture was told of\n", 404)
        return Response(found, media_type="image/png", headers={"Cache-Control": "private, max-age=3600, immutable"})

    async def events(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=EVENTS)
        if board.watchers >= MOST_STREAMS:
            return PlainTextResponse(f"{MOST_STREAMS} browsers look already; close one\n", 503, {"Retry-After": "5"})

        async def news() -> AsyncIterator[bytes]:
            board.watchers += 1
            try:
                async for event in board.stream():
                    yield event
            finally:
                board.watchers -= 1

        return StreamingResponse(news(), media_type=EVENTS, headers={"X-Accel-Buffering": "no"})

    routes = [
        Route("/", page),
        Route("/charts.json", charts),
        Route("/latest.json", latest),
        Route("/events", events),
        Route("/pictures/{run}/{instance:int}.png", picture),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Gate(Starlette(routes=routes), admission)


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
