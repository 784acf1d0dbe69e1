"""Cores: how many a process may use, and those that a Boss leaves to the rest of its run.

Where all cores are busy, Linux wakes whoever has something to do on the core where it slept: for a broker, an Assistant
or a Boss's own I/O thread that is the core on which the Boss trains, time and again, though what runs on another one
would give way at once. A launcher that leaves cores free of the Boss names them in ``ASIDE_VARIABLE``; broker and
Assistants keep to them, and so do those threads of the Boss's that speak with the broker and write its snapshots.
"""

from __future__ import annotations

import math
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from protocol.errors import SettingError

ASIDE_VARIABLE = "AUTOASSIST_CORES_ASIDE"
"""Their numbers, with commas between them; "" for none. Whoever sets it has chosen."""
QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time in each period, and the period's: a container's share of its host (cgroup v2)."""


def usable_cores() -> int:
    """Those that this thread may run on, and no more than its container's share comes to."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # there is no such file, or no limit in it
        quota, period = map(int, QUOTA_FILE.read_text().split())
        cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def as_aside(count: int) -> dict[str, str]:
    """So many of the usable cores, in words for the environment of a run's processes.

    None where there is no choice, or where who has started this process has chosen. Which ones is drawn, so that the
    runs of one host, which know nothing of each other, hardly all choose the same.
    """
    if sys.platform != "linux" or ASIDE_VARIABLE in os.environ:
        return {}
    cores = sorted(os.sched_getaffinity(0))
    if not 0 < count < len(cores):
        return {}
    first = secrets.randbelow(len(cores))
    return {ASIDE_VARIABLE: ",".join(str(cores[(first + i) % len(cores)]) for i in range(count))}


def cores_aside() -> set[int]:
    """The cores to keep to, as far as this thread may use them; none where nobody has named any, or none may be chosen.

    Raises SettingError where the variable holds anything but numbers.
    """
    named = os.environ.get(ASIDE_VARIABLE, "")
    if sys.platform != "linux" or not named:
        return set()
    try:
        cores = {int(core) for core in named.split(",")}
    except ValueError:
        raise SettingError(f"{ASIDE_VARIABLE}={named}: give numbers of cores with commas between them") from None
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, own)
    except OSError:  # some containers forbid it; ZeroMQ would abort the process
        return set()
    return cores & own


def keep_aside() -> None:
    """Keep this thread, and all that it starts from now on, to the cores that the Boss leaves free."""
    if cores := cores_aside():
        with suppress(OSError):  # a core has been taken from this process in this very moment
            os.sched_setaffinity(0, cores)
