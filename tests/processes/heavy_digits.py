"""Digits with a Boss that takes its time: the small network, and a rest in each step, as long as the test wants it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.digits import Digits

if TYPE_CHECKING:
    from torch import Tensor

PACE_VARIABLE = "HEAVY_DIGITS_PACE"
"""Names the file in which a test says how long a step takes from now on."""
STEP_S = 0.03
LOOK_S = 0.01
LOOKED_AT = 2
"""Instances with which a workload is looked over before the run begins: no step."""


class Pace:
    """What a test tells the Bosses to which it has given ``environment``; until then a step takes ``STEP_S``.

    So a run lasts until what it is run for has been seen, on a fast machine as on one that is busy, and no longer.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "pace"
        self.environment = {PACE_VARIABLE: str(self._file)}

    def hold(self) -> None:
        """The Boss stays in its next step, which counts as training."""
        self._tell(float("inf"))

    def walk(self) -> None:
        """As from the beginning."""
        self._tell(STEP_S)

    def hurry(self) -> None:
        """The test has seen all that it wanted to: no rest any more."""
        self._tell(0.0)

    def _tell(self, step_s: float) -> None:
        told = self._file.with_suffix(".next")
        told.write_text(str(step_s))
        told.replace(self._file)


def step_s() -> float:
    """What the test wants at this moment."""
    try:
        return float(Path(os.environ[PACE_VARIABLE]).read_text())
    except (KeyError, FileNotFoundError):
        return STEP_S


class HeavyDigits(Digits):
    """As digits; each step also rests, so that a run lasts long enough to be disturbed."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        began, is_step = time.monotonic(), len(targets) > LOOKED_AT
        while is_step and time.monotonic() - began < step_s():
            threading.Event().wait(LOOK_S)
        return super().losses(outputs, targets)
