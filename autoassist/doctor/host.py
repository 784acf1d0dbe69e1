"""The machine: its ports, clocks, limits and memory."""

from __future__ import annotations

import errno
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from autoassist.doctor.finding import Finding, error, note, ok, warning
from protocol.cores import usable_cores

LEAST_FILES = 256
FEW_FILES = 1024
LEAST_SHARED = 256 << 20
LITTLE_MEMORY = 1 << 30
CLOCK_S = 0.05
WRONG_SHARE = 0.2
"""Of the time that a clock may differ from another over so short a moment."""
LEAST_YEAR = 2026
"""Before it no version of this was there: a clock that says so is wrong."""


def ports(wanted: list[int], *, is_asked: bool) -> Iterator[Finding]:
    """Whether a role may listen there; ``is_asked``: the user has named them."""
    for port in wanted:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen(1)
            except OSError as failure:
                yield _not_had(port, failure, is_asked)
                continue
        yield ok("ports", f"{port} is free")


def _not_had(port: int, failure: OSError, is_asked: bool) -> Finding:
    if failure.errno == errno.EADDRINUSE:
        who = _listener(port)
        words = f"{port} is in use{f' by {who}' if who else ''}"
        remedy = (
            "give another port (--port, --statistics-port, --http-port; 0 for any free one), or stop who listens there"
        )
        return error("ports", words, remedy) if is_asked else note("ports", words, remedy)
    remedy = "give a port above 1023, or the right to bind it"
    return error("ports", f"{port}: {failure.strerror}", remedy)


def _listener(port: int) -> str:
    """Who listens there, as far as this user may know."""
    try:
        for line in psutil.net_connections("tcp"):
            if line.status == psutil.CONN_LISTEN and line.laddr and line.laddr.port == port and line.pid is not None:
                return f"process {line.pid} ({' '.join(psutil.Process(line.pid).cmdline())[:80]})"
    except psutil.Error:
        pass
    return ""


Clock = Callable[[], float]


def clocks(
    monotonic: Clock = time.monotonic, wall: Clock = time.time, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Finding]:
    """All timing is by the monotonic clock; that of the day only names directories and lines of logs."""
    before, day = monotonic(), wall()
    sleep(CLOCK_S)
    passed, passed_day = monotonic() - before, wall() - day
    resolution = time.get_clock_info("monotonic").resolution
    said = time.strftime("%Y-%m-%d %H:%M", time.gmtime(day))
    words = f"monotonic, resolution {resolution * 1e9:.0f} ns; it is {said} UTC"
    if passed < CLOCK_S * (1 - WRONG_SHARE) or passed > 100 * CLOCK_S:
        told = f"the monotonic clock went on by {passed * 1e3:.1f} ms while {CLOCK_S * 1e3:.0f} ms passed"
        yield error(
            "clock", told, "leases and time-outs go by it: look at the host's clock source (dmesg, clocksource)"
        )
    elif abs(passed_day - passed) > WRONG_SHARE * max(passed, CLOCK_S):
        told = f"the clock of the day was set, by {passed_day - passed:+.1f} s, while it was looked at"
        yield warning("clock", told, "let NTP slew it; runs do not mind, names and logs do")
    elif time.gmtime(day).tm_year < LEAST_YEAR:
        yield warning("clock", words, "set the clock of the day: run directories and logs are named by it")
    else:
        yield ok("clock", words)


def open_files(limits: tuple[int, int] | None = None) -> Iterator[Finding]:
    """A socket for each role, and the files of the store."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE) if limits is None else limits
    at_most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        level = error if soft < LEAST_FILES else warning
        yield level(
            "open files", f"{soft} (at most {at_most})", f"ulimit -n {FEW_FILES * 4}, before each role is started"
        )
    else:
        yield ok("open files", f"{'unlimited' if soft == resource.RLIM_INFINITY else soft}")


def shared_memory(size: int | None = None, free: int | None = None) -> Iterator[Finding]:
    """DataLoader workers hand batches over in /dev/shm; Docker gives 64 MB of it."""
    folder = Path("/dev/shm")
    if size is None or free is None:
        if not folder.is_dir():
            yield warning("shared memory", "there is no /dev/shm", "mount a tmpfs there, or use num_workers=0")
            return
        found = psutil.disk_usage(str(folder))
        size, free = found.total, found.free
    words = f"/dev/shm has {size / 1e6:.0f} MB, {free / 1e6:.0f} MB free"
    if free < LEAST_SHARED:
        remedy = "docker run --shm-size=1g (shm_size: 1g in compose), or free what lies there, or use num_workers=0"
        yield warning("shared memory", words, remedy)
    else:
        yield ok("shared memory", words)


def memory_and_cores(available: int | None = None, cores: int | None = None) -> Iterator[Finding]:
    """Room for three processes, or four where an Assistant looks ahead."""
    available = psutil.virtual_memory().available if available is None else available
    if cores is None:
        cores = usable_cores()
    words = f"{available / 1e9:.1f} GB of memory free, {cores} cores"
    if available < LITTLE_MEMORY:
        yield warning(
            "memory",
            words,
            "free some: broker, Assistant, its looking ahead and Boss take 0.1, 0.3, 0.4 and 0.5 GB at least",
        )
    elif cores < 2:
        remedy = "an Assistant wants a core beside the Boss's; run it on another host, or expect an exposed wait"
        yield warning("memory", words, remedy)
    else:
        yield ok("memory", words)
