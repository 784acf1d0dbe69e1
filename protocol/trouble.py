"""Something that may fail again and again, told in a log that somebody reads."""

from __future__ import annotations

import logging


class Trouble:
    """Told the first time, then only counted, until it is over."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._times = 0
        self._what = ""

    def met(self, what: str, consequence: str) -> None:
        """It has failed; ``what`` is told without ``consequence`` where it is over."""
        self._times += 1
        if self._times == 1:
            self._what = what
            self._log.warning("%s; %s (told once, then counted)", what, consequence)

    def is_over(self) -> None:
        """It has worked."""
        if self._times:
            self._log.info("over, after %d times: %s", self._times, self._what)
        self._times = 0

    def ends(self) -> None:
        """It will not be tried any more."""
        if self._times > 1:
            self._log.warning("%d times in all: %s", self._times, self._what)
        self._times = 0
