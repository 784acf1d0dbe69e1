"""Metrics over HTTP: what is served, and what nobody who reaches the port can do with it."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker import monitor as monitor_module
from broker.monitor import Monitor, monitoring, render
from protocol import exporter as exporter_module
from protocol.errors import PortInUse, SettingError
from protocol.exporter import LIVE_S, MAX_LINES, MAX_REQUEST, ExporterSettings
from protocol.metrics import METRICS
from protocol.statistics import PeerStatistics, RunStatistics

DEADLINE_S = 30.0
ASSISTANT = PeerStatistics(name='a"\\\n0', role="assistant", silent_s=0.5, windows=3, lift_error=float("inf"))
STATISTICS = RunStatistics(policy="autoassist", trained_steps=42, refused={"bad_message": 2}, peers=[ASSISTANT])


class Clock:
    """Stands still until it is told otherwise."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitor]:
    """On a host that is busy, a client of the tests has time."""
    monkeypatch.setattr(exporter_module, "DEADLINE_S", DEADLINE_S)
    served = Monitor(ExporterSettings(http_port=0), clock)
    yield served
    served.close()


def ask(monitor: Monitor, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, str]:
    """Status and body, by an HTTP client that is not ours."""
    connection = http.client.HTTPConnection(urlsplit(monitor.address).netloc, timeout=DEADLINE_S)
    try:
        connection.request(method, path, body or None)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def connect(monitor: Monitor) -> socket.socket:
    parts = urlsplit(monitor.address)
    return socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_S)


def hung_up(line: socket.socket) -> bytes:
    """All that the monitor says until it hangs up; however it does so."""
    said = b""
    try:
        while part := line.recv(65536):
            said += part
    except ConnectionError:
        pass
    return said


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_exposition_has_every_metric_with_its_type_and_its_samples() -> None:
    text = render(STATISTICS).decode()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
    expected = {m.name: [(dict(zip(m.labels, k, strict=True)), v) for k, v in m.read(STATISTICS)] for m in METRICS}
    assert samples(text) == {name: found for name, found in expected.items() if found}


def test_metrics_are_those_that_were_shown_last(monitor: Monitor) -> None:
    monitor.show(STATISTICS)
    status, text = ask(monitor, "/metrics")
    assert status == 200 and samples(text)["autoassist_boss_steps_total"] == [({}, 42.0)]
    assert samples(text)["autoassist_assistant_windows_total"] == [({"peer": ASSISTANT.name}, 3.0)]
    monitor.show(RunStatistics(trained_steps=43))
    assert samples(ask(monitor, "/metrics?x=1")[1])["autoassist_boss_steps_total"] == [({}, 43.0)]


def test_a_page_is_rendered_once_for_all_who_ask(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[RunStatistics] = []
    monkeypatch.setattr(monitor_module, "render", lambda s: bool(rendered.append(s)) or b"x 1\n")
    monitor.show(STATISTICS)
    assert {ask(monitor, "/metrics") for _ in range(5)} == {(200, "x 1\n")}
    assert rendered == [STATISTICS]


def test_health_follows_the_poll_loop(monitor: Monitor, clock: Clock) -> None:
    assert ask(monitor, "/healthz") == (503, "the broker is starting\n")
    monitor.show(STATISTICS)
    clock.now += LIVE_S
    assert ask(monitor, "/healthz") == (200, "ok\n")
    clock.now += 1.0
    assert ask(monitor, "/healthz") == (503, "the broker's loop has been stuck for 6 s\n")
    monitor.show(STATISTICS)
    assert ask(monitor, "/healthz")[0] == 200


def test_figures_of_a_stuck_loop_do_not_pass_for_those_of_now(monitor: Monitor, clock: Clock) -> None:
    monitor.show(STATISTICS)
    assert ask(monitor, "/metrics")[0] == 200
    clock.now += LIVE_S + 1.0
    assert ask(monitor, "/metrics")[0] == 503


def test_other_paths_are_not_there_and_only_get_is_answered(monitor: Monitor) -> None:
    monitor.show(STATISTICS)
    for path in ("/", "/metrics/", "/..%2f", "/etc/passwd", "*"):
        assert ask(monitor, path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"):
        assert ask(monitor, "/metrics", method)[0] == 405, method


def test_head_is_answered_as_get_is_without_the_body(monitor: Monitor) -> None:
    """Load balancers and curl -I ask so."""
    assert ask(monitor, "/healthz", "HEAD") == (503, "")
    monitor.show(STATISTICS)
    with connect(monitor) as line:
        line.sendall(b"HEAD /metrics HTTP/1.1\r\n\r\n")
        head, _, body = hung_up(line).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK") and body == b""
    assert f"Content-Length: {len(render(STATISTICS))}".encode() in head


@pytest.mark.parametrize("name", ["127.0.0.1:9155", "localhost", "LOCALHOST:1", "[::1]:9155", socket.gethostname()])
def test_who_names_this_host_is_answered(monitor: Monitor, name: str) -> None:
    with connect(monitor) as line:
        line.sendall(f"GET /healthz HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        assert hung_up(line).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("header", ["Host: evil.example", "hOsT:evil.example:9155", "Host: a\r\nHost: localhost"])
def test_a_foreign_page_cannot_read_the_figures_by_a_name_that_it_points_here(monitor: Monitor, header: str) -> None:
    with connect(monitor) as line:
        line.sendall(f"GET /metrics HTTP/1.1\r\n{header}\r\n\r\n".encode())
        assert hung_up(line).startswith(b"HTTP/1.1 421 ")


def test_beyond_loopback_it_is_called_as_others_call_it() -> None:
    with monitoring(ExporterSettings(http_port=0, http_host="0.0.0.0")) as served:
        assert served is not None
        with socket.create_connection(("127.0.0.1", urlsplit(served.address).port), timeout=DEADLINE_S) as line:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: broker:9155\r\n\r\n")
            assert hung_up(line).startswith(b"HTTP/1.1 503")


def test_who_sends_a_body_still_reads_the_answer(monitor: Monitor) -> None:
    """A line that is closed with something unread on it is reset, and the answer may be lost with it."""
    with connect(monitor) as line:
        line.sendall(b"POST /metrics HTTP/1.1\r\n\r\n")
        line.recv(1, socket.MSG_PEEK)  # it is answered …
        for _ in range(3):  # … and goes on talking
            line.sendall(b"x" * 100_000)
            ask(monitor, "/healthz")
        line.shutdown(socket.SHUT_WR)
        assert hung_up(line).endswith(b"\r\n\r\nonly GET is answered\n")


def test_a_client_that_resets_its_line_disturbs_nobody(monitor: Monitor) -> None:
    monitor.show(STATISTICS)
    for sent in (b"", b"GET /metrics", b"GET /metrics HTTP/1.1\r\n\r\n"):
        line = connect(monitor)
        line.sendall(sent)
        ask(monitor, "/healthz")  # the monitor has taken what was sent before
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()
        assert ask(monitor, "/healthz") == (200, "ok\n")


GARBAGE = [
    b"\x00\xff\xfe\r\n\r\n",
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /metrics\r\n\r\n",
    b"GET /metrics HTTP/9\r\n\r\n",
    b"GET  /metrics HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", GARBAGE)
def test_garbage_is_refused_and_the_next_client_served(monitor: Monitor, request_bytes: bytes) -> None:
    with connect(monitor) as line:
        line.sendall(request_bytes)
        assert hung_up(line).startswith(b"HTTP/1.1 400 ")
    assert ask(monitor, "/healthz")[0] == 503


def test_a_request_that_never_ends_is_cut_off(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "DEADLINE_S", 2 * DEADLINE_S)  # it is not that
    with connect(monitor) as line:
        line.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST)
        assert hung_up(line).startswith(b"HTTP/1.1 431 ")


def test_a_slow_client_does_not_hold_the_others_up(monitor: Monitor) -> None:
    monitor.show(STATISTICS)
    with connect(monitor) as slow:
        slow.sendall(b"GET /met")
        assert ask(monitor, "/metrics")[0] == 200
        slow.sendall(b"rics HTTP/1.1\r\n\r\n")
        assert hung_up(slow).startswith(b"HTTP/1.1 200 ")


def test_a_slow_client_is_hung_up_on_after_its_deadline(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "DEADLINE_S", 0.1)
    with connect(monitor) as silent, connect(monitor) as half:
        half.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert hung_up(silent) == b"" and hung_up(half) == b""


def test_who_reads_no_answer_is_hung_up_on_too(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "CHUNK", 50_000_000)
    monkeypatch.setattr(monitor_module, "render", lambda statistics: b"x" * 50_000_000)
    monitor.show(STATISTICS)
    with connect(monitor) as line:
        line.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        line.recv(1, socket.MSG_PEEK)
        assert ask(monitor, "/healthz") == (200, "ok\n")
        held = max(monitor._lines, key=lambda other: len(other.answer))
        held.deadline = 0.0
        ask(monitor, "/healthz")  # so that it looks at its clock
        assert held not in monitor._lines
        assert len(hung_up(line)) < 50_000_000


def test_a_crowd_of_silent_clients_keeps_nobody_out(monitor: Monitor) -> None:
    """One more takes the place of the one that has been there longest; no more are held than that."""
    crowd = [connect(monitor) for _ in range(MAX_LINES + 4)]
    try:
        assert ask(monitor, "/healthz")[0] == 503
        assert len(monitor._lines) <= MAX_LINES
        assert hung_up(crowd[0]) == b""
    finally:
        for line in crowd:
            line.close()


def test_hundreds_of_half_open_requests_hold_nobody_up(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many turns as it takes to hang up on them, not one for each, and who has asked in full is answered before."""
    turns: list[float | None] = []
    rest = monitor._stopping.wait
    monkeypatch.setattr(monitor._stopping, "wait", lambda seconds: bool(turns.append(seconds)) or rest(seconds))
    crowd = [connect(monitor) for _ in range(300)]
    try:
        for line in crowd:
            with suppress(ConnectionError):
                line.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert ask(monitor, "/healthz")[0] == 503
        assert len(turns) < 300 and len(monitor._lines) <= MAX_LINES
    finally:
        for line in crowd:
            line.close()


def test_the_thread_rests_between_its_turns(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a flood of requests would take the interpreter from the poll loop."""
    monkeypatch.setattr(exporter_module, "TURN_S", 0.2)
    ask(monitor, "/healthz")
    began = time.monotonic()
    ask(monitor, "/healthz")
    assert time.monotonic() - began >= 0.2  # it takes two turns: to accept, and to read


def test_closing_leaves_no_thread_and_no_port_even_with_clients_in_the_middle() -> None:
    before = set(threading.enumerate())
    with monitoring(ExporterSettings(http_port=0)) as served:
        assert served is not None
        line = connect(served)
        line.sendall(b"GET /metrics")
        ask(served, "/healthz")
        address = ("127.0.0.1", int(urlsplit(served.address).port or 0))
    assert set(threading.enumerate()) == before
    assert hung_up(line) == b""
    line.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=DEADLINE_S)
    with monitoring(ExporterSettings(http_port=address[1])) as again:
        assert again is not None


def test_nothing_is_served_unless_asked_for() -> None:
    before = threading.active_count()
    with monitoring(ExporterSettings()) as served:
        assert served is None and threading.active_count() == before


def test_an_address_that_cannot_be_had_is_named_with_its_remedy(monitor: Monitor) -> None:
    taken = int(urlsplit(monitor.address).port or 0)
    with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{taken} is in use; choose another --http-port"):
        Monitor(ExporterSettings(http_port=taken))
    with pytest.raises(SettingError, match=r"http_host=192\.0\.2\.1: .*give an address of this host"):
        Monitor(ExporterSettings(http_port=0, http_host="192.0.2.1"))
    with pytest.raises(SettingError, match="http_port=70000: must lie in 0 … 65535"):
        ExporterSettings(http_port=70000)


def test_it_may_listen_beyond_loopback_and_on_ipv6() -> None:
    for host, pattern in (("0.0.0.0", r"http://0\.0\.0\.0:\d+"), ("::1", r"http://\[::1\]:\d+")):
        with monitoring(ExporterSettings(http_port=0, http_host=host)) as served:
            assert served is not None and re.fullmatch(pattern, served.address)
            assert ask(served, "/healthz")[0] == 503


def test_a_broker_without_it_does_not_load_prometheus() -> None:
    code = "import sys, broker.loop, autoassist.roles; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
