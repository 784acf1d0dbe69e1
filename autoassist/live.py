"""The live view of a run in the terminal: what the broker publishes, drawn with rich."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zmq
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from zmq.utils.monitor import recv_monitor_message

from autoassist import limits
from autoassist.terminal import shown
from protocol.metric import metric_text
from protocol.security import MONITOR, open_key, secure_client
from protocol.statistics import PeerStatistics, RunStatistics, decode_statistics

POLL_MS = 200
LAST_WORDS_S = 2.0  # how long an end that neither is said nor shows as a closed connection is waited for
COLUMNS = ("role", "credit", "windows", "kept", "backlog", "learned", "lift", "cpu", "memory", "age")


def render(statistics: RunStatistics | None) -> Group:
    """One frame."""
    if statistics is None or not statistics.policy:
        return Group(Text("waiting for the Boss …", style="dim"))
    s = statistics
    budget = f"epoch {s.epoch + 1}/{s.epochs}" if s.epochs else f"{s.instances_trained}/{s.boss_budget} instances"
    head = Text.assemble(("AutoAssist ", "bold"), shown(f"policy {s.policy} · {budget} · step {s.trained_steps}"))
    if s.ended:
        head.append(shown(f" · {s.ended}", "bold"))
    figures = Table.grid(padding=(0, 2))
    kept = s.epoch_kept / s.epoch_offered if s.epoch_offered else 1.0
    unfiltered = s.unfiltered / s.offered if s.offered else 0.0
    metric = f"{s.metric_name} {metric_text(s.metric_value)}" if s.metric_value is not None else "-"
    wait = f"{s.exposed_wait_s / s.wall_s:.2%}" if s.wall_s else "-"
    refused = sum(n for cause, n in s.refused.items() if cause != "duplicate")
    figures.add_row("kept this epoch", f"{kept:.1%}", "unfiltered", f"{unfiltered:.1%}")
    figures.add_row("Boss passes", f"{s.instances_trained}", "exposed wait", Text(wait, limits.wait(s)))
    ready = Text(f"{s.ready_batches} batches", limits.ready(s))
    figures.add_row("ready at the Boss", ready, "stock", f"{s.stock_instances} instances")
    figures.add_row("leased windows", f"{s.leased_windows}", "metric", shown(metric))
    dropped = Text(f"{s.values_dropped} losses", limits.count(s.values_dropped))
    figures.add_row("dropped", dropped, "refused", Text(f"{refused} inputs", limits.count(refused)))
    if s.tokens is not None and s.padded_tokens:
        figures.add_row("padding", f"{1.0 - s.tokens / s.padded_tokens:.1%}", "of", f"{s.padded_tokens} tokens")
    stale = Text.assemble(f"{'staleness':<19}", (_staleness(s), limits.staleness(s)))
    bar = Table.grid()  # on its own, a bar does not end its line
    bar.add_row(ProgressBar(total=1.0, completed=s.progress, width=72))
    return Group(head, bar, figures, stale, _peers(s))


def _staleness(s: RunStatistics) -> str:
    if s.staleness_p50 is None:
        return f"-, bound {s.staleness_bound}"
    p99 = "" if s.staleness_p99 is None else f"p99 {s.staleness_p99:.0f}, "
    return f"p50 {s.staleness_p50:.0f}, {p99}max {s.staleness_max}, bound {s.staleness_bound}"


def _peers(statistics: RunStatistics) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "role" else "right", no_wrap=True)
    for peer in statistics.peers:
        silent = f" silent {peer.silent_s:.0f} s" if limits.silence(peer) else ""
        name, age = shown(f"{peer.name}{silent}", limits.silence(peer)), Text(f"{peer.silent_s:.0f} s")
        load = _load(peer.cpu_percent, peer.rss_bytes, peer.role)
        table.add_row(name, _credits(statistics, peer), *_assistant(peer), *load, age)
    if statistics.broker_rss_bytes:
        broker = _load(statistics.broker_cpu_percent, statistics.broker_rss_bytes, "broker")
        table.add_row("broker", *(Text(""),) * 6, *broker)
    return table


def _credits(statistics: RunStatistics, peer: PeerStatistics) -> Text:
    """How much of what a role has granted is in use: batches that lie ready, windows that are leased."""
    if peer.role == "assistant":
        return Text(f"{peer.leases}/{peer.credits}")
    return Text(f"{statistics.ready_batches}/{peer.credits}" if peer.credits else "-")  # other ranks grant nothing


def _assistant(peer: PeerStatistics) -> tuple[Text, ...]:
    """Windows, kept, backlog, learned and lift; nothing for a Boss."""
    if peer.role != "assistant":
        return (Text(""),) * 5
    return (
        Text(str(peer.windows)),
        Text(f"{peer.kept / peer.offered:.0%}" if peer.offered else "-"),
        Text(str(peer.backlog_records), limits.backlog(peer)),
        Text(str(peer.learned_through)),
        Text(f"{peer.lift:.3f} ± {peer.lift_error:.3f}", limits.lift(peer)),
    )


def _load(cpu_percent: float, rss_bytes: int, role: str) -> tuple[Text, Text]:
    return Text(f"{cpu_percent:.0f} %", limits.cpu(cpu_percent, role)), Text(f"{rss_bytes / 1e6:.0f} MB")


class LiveView:
    """Draws from ``start`` to ``stop``; a thread of its own reads the statistics socket."""

    def __init__(self, *, enabled: bool, keys: Path | None = None) -> None:
        self._key = open_key(keys, MONITOR) if keys is not None else None
        self._enabled = enabled
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, address: str) -> None:
        """Begin to draw what is published at ``address``."""
        if self._enabled:
            self._thread = threading.Thread(target=self._draw, args=(address,), name="live-view", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Draw what has come until now, which after the broker's end is the end of the run, and leave it there."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _draw(self, address: str) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 8)
        socket.subscribe(b"")
        if self._key is not None:
            secure_client(socket, self._key)
        connection = socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
        socket.connect(address)
        try:
            # What is logged meanwhile appears above the view, unless it goes to a file.
            with Live(render(None), refresh_per_second=4, redirect_stderr=sys.stderr.isatty()) as live:
                while not self._done.is_set():
                    if socket.poll(POLL_MS):
                        live.update(render(decode_statistics(socket.recv())))
                for statistics in _last_words(socket, connection):
                    live.update(render(statistics))
        except msgspec.MsgspecError:
            return
        finally:
            socket.disable_monitor()
            connection.close()
            socket.close()
            context.term()


def _last_words(socket: zmq.Socket[bytes], connection: zmq.Socket[bytes]) -> Iterator[RunStatistics]:
    """What is still on its way: until the end is said, or nothing more can come since the connection is closed."""
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(connection, zmq.POLLIN)
    deadline, is_closed = time.monotonic() + LAST_WORDS_S, False
    while (left_s := deadline - time.monotonic()) > 0:
        ready = dict(poller.poll(0 if is_closed else int(left_s * 1e3)))
        if connection in ready:
            is_closed = recv_monitor_message(connection)["event"] == zmq.EVENT_DISCONNECTED
        if socket in ready:
            statistics = decode_statistics(socket.recv())
            yield statistics
            if statistics.ended:
                return
        elif is_closed and not ready:
            return
