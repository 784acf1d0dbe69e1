"""What a role's process uses, for people to see."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil


class Vitals:
    """Of this process; ``refresh`` reads them.

    Reading opens files. Where there is no descriptor left for one, what was read last stands: a figure that is a moment
    old must not end a run.
    """

    def __init__(self) -> None:
        self.cpu_percent = 0.0
        """Of one core, since the refresh before."""
        self.rss_bytes = 0
        self._process = psutil.Process(os.getpid())

    def refresh(self) -> None:
        """Read them anew, where that is possible."""
        with suppress(OSError, psutil.Error):
            self.cpu_percent = self._process.cpu_percent()
            self.rss_bytes = self._process.memory_info().rss
