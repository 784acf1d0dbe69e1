"""Processes that belong to one another: how one ended, and that none outlives the one that has started it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
MOST_DESCRIPTORS = 1 << 16


def ending(code: int) -> str:
    """What an exit code says, in words; a negative one is a signal's."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was killed by signal {-code}"


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Get this signal when the process ``parent``, which has started this one, ends, however that happens (Linux).

    Raises SystemExit where it has ended by now.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        raise SystemExit(1)


def ask_nothing_of_the_terminal() -> None:
    """A process in the background that reads from the terminal after this gets an error; else it would be stopped, and
    whoever waits for it would wait for ever."""
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)


def take_all_descriptors() -> None:
    """Raise the soft limit of open files to the hard one, of 65,536 at most: each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
