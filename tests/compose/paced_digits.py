"""Digits whose Boss takes ever longer for a step while the file ``slow`` lies beside this one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from torch import Tensor

from workloads.digits import Digits

SLOW = Path(__file__).with_name("slow")
BEGAN_S = time.monotonic()


class PacedDigits(Digits):
    """Not over before it was disturbed, on a slow machine either: 50 steps in 15 s, 230 in 600 s, 290 in 1800 s."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if SLOW.exists():
            threading.Event().wait(max(0.3, (time.monotonic() - BEGAN_S) / 50))
        return super().losses(outputs, targets)
