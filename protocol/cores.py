"""Cores: how many a process may use, and those that a Boss leaves to the rest of its run.

Where all cores are busy, Linux wakes whoever has something to do on the core where it slept: for a broker, an Assistant
or a Boss's own I/O thread that is the core on which the Boss trains, time and again, though what runs on another one
would give way at once. A launcher that leaves cores free of the Boss says so in ``ASIDE_VARIABLE``, and everything but
the training keeps to them.
"""

from __future__ import annotations

import os
import sys

from protocol.errors import SettingError

ASIDE_VARIABLE = "AUTOASSIST_CORES_ASIDE"
"""Their numbers, with commas between them; "" for none. Whoever sets it has chosen."""


def usable_cores() -> int:
    """Those that this thread may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def as_aside(count: int) -> dict[str, str]:
    """So many of the usable cores, in words for the environment of a run's processes.

    None where there is no choice, or where who has started this process has chosen. Which ones depends on this process,
    so that two runs on one host leave different cores free.
    """
    if sys.platform != "linux" or ASIDE_VARIABLE in os.environ:
        return {}
    cores = sorted(os.sched_getaffinity(0))
    if not 0 < count < len(cores):
        return {}
    first = os.getpid() % len(cores)
    return {ASIDE_VARIABLE: ",".join(str(cores[(first + i) % len(cores)]) for i in range(count))}


def cores_aside() -> set[int]:
    """The cores to keep to, as far as this thread may use them; none where nobody has named any.

    Raises SettingError where the variable holds anything but numbers.
    """
    named = os.environ.get(ASIDE_VARIABLE, "")
    if sys.platform != "linux" or not named:
        return set()
    try:
        cores = {int(core) for core in named.split(",")}
    except ValueError:
        raise SettingError(f"{ASIDE_VARIABLE}={named}: give numbers of cores with commas between them") from None
    return cores & os.sched_getaffinity(0)


def keep_aside() -> None:
    """Keep this thread, and all that it starts from now on, to the cores that the Boss leaves free."""
    if cores := cores_aside():
        os.sched_setaffinity(0, cores)
