"""Signals as something that a loop can wait on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from protocol.signals import StopSignal


def test_a_stop_is_asked_for_by_sigterm_and_by_ctrl_c() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with StopSignal() as stop:
            os.kill(os.getpid(), number)
            assert (stop.requested, stop.number) == (True, number)


def test_a_signal_that_is_not_listened_to_keeps_its_meaning() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal((signal.SIGINT,)):
        assert signal.getsignal(signal.SIGTERM) is before
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler


HANGS = """
import os, signal, sys
from protocol import signals
from protocol.signals import StopSignal
with StopSignal(second_kills=True):
    for line in sys.stdin:
        if line.strip() == "later":
            signals.AGAIN_S = -1.0
        else:
            os.kill(os.getpid(), getattr(signal, line.strip()))
            print("lives", flush=True)
"""


def test_a_second_ctrl_c_ends_who_does_not_hear_the_first_and_a_sigterm_or_the_same_one_again_does_not() -> None:
    words = subprocess.run(
        [sys.executable, "-c", HANGS],
        input="SIGINT\nSIGINT\nSIGTERM\nSIGTERM\nlater\nSIGTERM\nSIGINT\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (words.returncode, words.stdout.count("lives")) == (-signal.SIGINT, 5), words.stderr
