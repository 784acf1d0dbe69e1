"""The page beside a local run: a process of its own that the run neither waits for nor depends on."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Literal

from autoassist.children import Child
from autoassist.monitor_command import packages_missing, require_packages

log = logging.getLogger("autoassist.run")

ERROR = "error: "
END_S = 3.0
"""How long it has to end before it is killed."""

PageChoice = Literal["auto", "on", "off"]


def page_is_wanted(choice: PageChoice) -> bool:
    """Whether a run has a page; auto: where somebody sits at a terminal, and what it needs is installed.

    Raises SettingError where it is asked for and cannot be.
    """
    if choice == "on":
        require_packages()
    return choice == "on" or (choice == "auto" and sys.stdout.isatty() and not packages_missing())


class Page:
    """Starts ``autoassist monitor`` on a run and ends it with the run."""

    def __init__(self, run_dir: Path, keys: Path | None) -> None:
        words = ["monitor", str(run_dir), "--announce", *(["--keys", str(keys)] if keys is not None else [])]
        self._child = Child("page", words, run_dir / "logs" / "page.log", on_line=self._heard, on_news=self._look)
        self._is_told = False
        """What became of it: where it is, or why it is not."""

    def start(self) -> None:
        """Start it; its address is told once it is there."""
        self._child.start(announce=True)

    def _heard(self, name: str, line: str) -> None:
        """It may fail; the run goes on, and its log says why."""

    def _look(self) -> None:
        if self._is_told:
            return
        self._is_told = bool(self._child.announcement) or self._child.code is not None
        if self._child.announcement:
            address = json.loads(self._child.announcement)["page"]
            place, _, token = address.partition("/?token=")
            log.info("the run's page is at %s%s", place, ", with its token:" if token else "")
            if token:  # to whoever started the run, and to no file
                sys.stderr.write(f"  {address}\n")
        elif self._child.code is not None:
            said = list(self._child.said) or ["it said nothing"]
            why = next((line for line in said if line.startswith(ERROR)), said[-1])
            log.warning("the run has no page: %s", why.removeprefix(ERROR))

    def stop(self) -> None:
        """End it, if it was started."""
        self._is_told = True
        self._child.tell(signal.SIGTERM)
        if not self._child.wait(END_S):
            self._child.tell(signal.SIGKILL)
            self._child.wait(END_S)
