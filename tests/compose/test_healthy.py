"""The containers' health checks: a role is at work where the broker hears it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType

import pytest

from broker.monitor import render
from protocol.statistics import PeerStatistics, RunStatistics
from tests.compose.files import ROOT


def program() -> ModuleType:
    """The script of the images, as a module."""
    loader = importlib.machinery.SourceFileLoader("healthy", str(ROOT / "deploy" / "compose" / "healthy"))
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("healthy", loader))
    loader.exec_module(module)
    return module


@contextmanager
def server_that_answers(code: int, body: bytes) -> Iterator[str]:
    """Gives everybody the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def broker_that_knows(*peers: PeerStatistics) -> AbstractContextManager[str]:
    """Serves the metrics that a broker with these peers would."""
    return server_that_answers(200, render(RunStatistics(peers=list(peers))))


def peer(name: str, silent_s: float) -> PeerStatistics:
    """One that the broker has heard so many seconds ago."""
    return PeerStatistics(name=name, role=name.partition("-")[0], silent_s=silent_s)


ME = f"assistant-{os.uname().nodename}"


@pytest.mark.parametrize(
    ("role", "peers", "wrong"),
    [
        ("assistant", [peer(ME, 0.4), peer("boss-0", 99.0)], ""),
        ("assistant", [peer(ME, 12.0)], f"the broker has not heard {ME} for 12 s"),
        ("assistant", [peer(f"{ME}-other", 0.4)], f"the broker has not heard {ME} for inf s"),
        ("boss", [peer("boss-0", 0.4)], ""),
        ("boss", [peer(ME, 0.4)], "the broker has not heard boss-0 for inf s"),
    ],
)
def test_a_role_is_healthy_while_the_broker_hears_it(role: str, peers: list[PeerStatistics], wrong: str) -> None:
    with broker_that_knows(*peers) as address:
        assert program().main(role, address) == wrong


@pytest.mark.parametrize(
    ("code", "wrong"),
    [(401, ""), (500, "the page answers 500"), (200, "the page asks for no token")],
)
def test_the_page_is_healthy_where_it_turns_away_who_has_no_token(code: int, wrong: str) -> None:
    with server_that_answers(code, b"") as address:
        assert program().main("page", page=address) == wrong
