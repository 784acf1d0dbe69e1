"""Signals as something that a loop can wait on."""

from __future__ import annotations

import os
import signal

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
