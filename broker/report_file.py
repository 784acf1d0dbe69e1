"""The report's file: written when it is due, or as soon as there is a descriptor for it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from broker.core import BrokerCore
from broker.hub import Hub
from broker.report import build_report, versions, write_report
from broker.store_errors import OutOfFiles

log = logging.getLogger("autoassist.broker")


AGAIN_S = 1.0
"""Between two attempts where there is no descriptor."""
LAST_S = 10.0


class ReportFile:
    """Of one run directory. Whoever connects takes a descriptor, and with the last of them no run may end."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.is_due = False
        self._was_short_of_files = False
        self._not_before = 0.0
        versions()  # read while there are files to be had

    def write_if_due(self, core: BrokerCore, hub: Hub, now: float) -> None:
        """Write it where it is due and there is a run; it stays due where no file can be opened.

        Raises StoreError on a full disk.
        """
        if not self.is_due or core.state.run is None or now < self._not_before:
            return
        try:
            write_report(self.run_dir, build_report(core, hub))
        except OutOfFiles as error:
            if not self._was_short_of_files:
                log.warning("the report waits: %s", error)
            self._was_short_of_files, self._not_before = True, now + AGAIN_S
            return
        self.is_due = self._was_short_of_files = False

    def write_last(self, core: BrokerCore, hub: Hub) -> None:
        """Write it though it may take a moment until descriptors are free.

        Raises StoreError on a full disk, and OutOfFiles in the end.
        """
        report, deadline = build_report(core, hub), time.monotonic() + LAST_S
        while True:
            try:
                return write_report(self.run_dir, report)
            except OutOfFiles:
                if time.monotonic() > deadline:
                    raise
                time.sleep(AGAIN_S / 10)
