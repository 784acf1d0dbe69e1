"""``autoassist top``: a run seen from outside, by its directory or its statistics address; as JSON for scripts."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import tyro
import zmq
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoassist.ended import Ended, read_ended, what_became_of
from autoassist.figures import Pair, Read, field, field_of, rate, rate_of, share_since, share_since_of, sparkline
from autoassist.live import render
from autoassist.report.unfinished import comparison_words
from autoassist.roles import Flat, LogSettings
from autoassist.summary import print_summary
from autoassist.terminal import plain, shown
from broker.addresses import ADDRESSES_FILE
from broker.run_lock import is_served
from protocol.errors import BrokerUnreachable, DataError, PeerRefused, SettingError
from protocol.handshake import HandshakeWatch
from protocol.report import REPORT_FILE
from protocol.security import MONITOR, Key, open_key, secure_client
from protocol.settings import require
from protocol.signals import StopSignal
from protocol.statistics import RunStatistics, decode_statistics

SAMPLES = 40
UNSERVED_S = 2.0
"""How long to wait for a broker that is not there: a launcher starts a killed one again within a second."""


@dataclass(frozen=True, kw_only=True)
class TopCommand:
    """Watch a run: queues, staleness, what is kept, whether the Boss waits."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")] = ""
    """Run directory, or the statistics address tcp://host:port that the broker says at its start; the newest run under
    runs/ if not given."""
    once: bool = False
    """Print one sample and leave."""
    json: bool = False
    """Print samples as JSON lines."""
    timeout_s: float = 10.0
    """How long to wait for the first sample."""
    keys: Path | None = None
    """A monitor's key file, or the directory of keys that holds it; for a broker with keys."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Draw until the run is over or a signal comes; returns the exit code."""
        require(self.timeout_s > 0, "timeout_s", self.timeout_s, "must be a positive number of seconds")
        run_dir, address = place_of(self.target)
        timeout_s = self.timeout_s
        if run_dir is not None and not is_served(run_dir):
            if (ended := read_ended(run_dir)) is not None:
                return self._tell_end(ended, run_dir)
            timeout_s = min(timeout_s, UNSERVED_S)
        key = open_key(self.keys, MONITOR) if self.keys is not None else None
        with StopSignal() as stop, closing(samples(address, timeout_s, stop, key)) as found:
            try:
                if self.once or self.json:
                    self._print(found)
                else:
                    self._draw(found)
            except BrokerUnreachable as error:
                raise _explained(error, run_dir) from None
            return 128 + stop.number if stop.requested else 0

    def _tell_end(self, ended: Ended, run_dir: Path) -> int:
        """What the broker published last, for scripts; for people that it is over, and the summary."""
        if self.json and ended.statistics is None:
            raise DataError(f"{run_dir}: the run is over, and its store cannot be read; see its {REPORT_FILE}")
        if self.json and ended.statistics is not None:
            self._print(iter([ended.statistics]))
        else:
            over = f"{run_dir}: the run is over ({ended.report.status}); this is its summary:"
            sys.stdout.write(plain(over) + "\n")
            sys.stdout.flush()
            print_summary(ended.report, run_dir)
        return 0

    def _print(self, found: Iterator[RunStatistics]) -> None:
        for statistics in found:
            if self.json:
                sys.stdout.write(msgspec.json.encode(statistics).decode() + "\n")
                sys.stdout.flush()
            else:
                from rich.console import Console

                Console().print(render(statistics))
            if self.once:
                return

    @staticmethod
    def _draw(found: Iterator[RunStatistics]) -> None:
        rates = Rates()
        with Live(refresh_per_second=4) as live:
            for statistics in found:
                live.update(Group(render(statistics), rates.add(statistics, time.monotonic())))


RUN: dict[str, Read] = {
    "steps/s": rate("trained_steps"),
    "offered/s": rate("offered"),
    "kept/s": rate("kept"),
    "kept, share": share_since("kept", "offered"),
    "unfiltered, share": share_since("unfiltered", "offered"),
    "stock, instances": field("stock_instances"),
    "ready, batches": field("ready_batches"),
    "leased, windows": field("leased_windows"),
    "staleness p99, steps": field("staleness_p99"),
}
"""What is drawn of a run."""


def of_assistant(name: str) -> dict[str, Read]:
    """What is drawn of an Assistant."""
    return {
        f"windows/s of {name}": rate_of(name, "windows"),
        f"kept by {name}, share": share_since_of(name, "kept", "offered"),
        f"lift of {name}": field_of(name, "lift"),
    }


@dataclass
class Rates:
    """What two samples in a row say of the pace, and how it was."""

    before: tuple[RunStatistics, float] | None = None
    history: dict[str, deque[float]] = dataclasses.field(default_factory=dict)

    def add(self, statistics: RunStatistics, now: float) -> Table:
        """One more sample at monotonic time ``now``; the table of all rates with their sparklines."""
        pair = Pair(statistics)
        if self.before is not None:
            pair = Pair(statistics, self.before[0], now - self.before[1])
        readers = dict(RUN)
        for peer in statistics.peers:
            if peer.role == "assistant":
                readers |= of_assistant(peer.name)
        for name, read in readers.items():
            if (value := read(pair)) is not None:
                self.history.setdefault(name, deque(maxlen=SAMPLES)).append(value)
        self.before = (statistics, now)
        table = Table.grid(padding=(0, 2))
        for name, values in self.history.items():
            table.add_row(shown(name), short(values[-1]), Text(sparkline(values), style="cyan"))
        for name, count in statistics.refused_from.items():
            causes = shown(", ".join(statistics.refused), "yellow")
            table.add_row(shown(f"refused from {name}"), str(count), causes)
        return table


def short(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def place_of(target: str) -> tuple[Path | None, str]:
    """A run's directory, None where an address is given, and where it publishes.

    Raises SettingError where ``target`` names no run.
    """
    run_dir = run_directory(target)
    return run_dir, target if run_dir is None else published_at(run_dir)


def run_directory(target: str) -> Path | None:
    """The run's directory, the newest if not given; None for an address. Raises SettingError where there is none."""
    if target.startswith(("tcp://", "ipc://")):
        return None
    return Path(target) if target else _newest()


def published_at(run_dir: Path) -> str:
    """Where the run's broker publishes; raises SettingError where the directory does not say."""
    path = run_dir / ADDRESSES_FILE
    try:
        return str(msgspec.json.decode(path.read_bytes(), type=dict[str, str])["statistics"])
    except FileNotFoundError:
        if words := comparison_words(run_dir):
            raise SettingError(f"target={run_dir}: {words}") from None
        what = "holds no run of a broker" if run_dir.is_dir() else "is no directory"
        raise SettingError(f"target={run_dir}: {what}; give a run directory or tcp://host:port") from None
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        raise SettingError(f"target={run_dir}: {error}; give a run directory or tcp://host:port") from None


def unserved_words(run_dir: Path) -> str:
    """Of a run that nothing is heard of and no broker of this machine serves: what became of it, what can be done."""
    return f"{what_became_of(run_dir)}; if it runs on another host, give tcp://host:port"


def _explained(error: BrokerUnreachable, run_dir: Path | None) -> BrokerUnreachable:
    """With what can be done, where no broker of this machine serves the run."""
    if run_dir is None or is_served(run_dir):
        return error
    return BrokerUnreachable(f"{run_dir}: {unserved_words(run_dir)}")


def _newest() -> Path:
    found = sorted(Path("runs").glob(f"*/{ADDRESSES_FILE}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SettingError("target is missing, and runs/ holds no run; give a run directory or tcp://host:port")
    return found[-1].parent


def samples(address: str, timeout_s: float, stop: StopSignal, key: Key | None = None) -> Generator[RunStatistics]:
    """Statistics as they come, until the run is over or a signal comes.

    Raises BrokerUnreachable where none comes within ``timeout_s``, SettingError for an address that is none,
    PeerRefused where the broker wants another ``key``.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.CONFLATE, 1)
            socket.setsockopt(zmq.IPV6, "[" in address)
            socket.subscribe(b"")
            if key is not None:
                secure_client(socket, key)
            with closing(HandshakeWatch(context, socket, key.name if key is not None else "")) as watch:
                try:
                    socket.connect(address)
                except zmq.ZMQError as error:
                    raise SettingError(f"target={address}: {error}; give tcp://host:port") from None
                while _wait(socket, watch, stop, address, timeout_s):
                    statistics = decode_statistics(socket.recv())
                    yield statistics
                    if statistics.ended and not statistics.peers:
                        return
    finally:
        context.term()


def _wait(socket: zmq.Socket[bytes], watch: HandshakeWatch, stop: StopSignal, address: str, timeout_s: float) -> bool:
    """Whether a sample has come; False where a signal has."""
    poller, deadline = zmq.Poller(), time.monotonic() + timeout_s
    for one in (socket, watch.events, stop.fileno()):
        poller.register(one, zmq.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poller.poll(int(left * 1000) + 1))
        if stop.requested:
            return False
        if socket in ready:
            return True
        if refusal := watch.refusal():
            raise PeerRefused(f"no statistics from {address}: {refusal}")
    hint = watch.doubt or "is the run over?"
    raise BrokerUnreachable(f"no broker publishes at {address} for {timeout_s:g} s; {hint}")
