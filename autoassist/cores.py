"""How many cores a process may use here, and whether some are left beside a Boss's."""

from __future__ import annotations

import os

CORES_TO_SPARE = 4
"""With so many, Assistants that look ahead do not take from a Boss on the CPU what they are to save it; on two cores
they do (docs/RESULTS.md)."""


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_cores_to_spare() -> bool:
    """Whether looking ahead is worth its price where nothing is said of it."""
    return usable_cores() >= CORES_TO_SPARE
