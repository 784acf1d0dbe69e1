"""The I/O thread looks for reports while they follow closely, and sleeps until it is called where they do not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from boss import rest
from boss.plan import RankBatch
from boss.reporter import Reporter
from boss.rest import COPY_POLL_S, DOZES, IDLE_S, LEAST_DOZE_S, LONG_STEP_S, Rest
from boss.wake import Wake


class Thread:
    """The I/O thread at rest. Nothing comes while it waits, unless ``during`` makes something come."""

    def __init__(self, wake: Wake) -> None:
        self.reporter, self.wake = Reporter(rank=0), wake
        self.now = 100.0
        self.rest = Rest(self.reporter, wake, self._wait, lambda: self.now)
        self.doze_s: list[float] = []
        self.during: Callable[[], bool] = lambda: False

    def _wait(self, seconds: float) -> bool:
        self.doze_s.append(seconds)
        return self.during()

    def put(self) -> None:
        """The training thread lays a report ready."""
        batch = RankBatch(0, 0, 0.0, np.arange(2), np.ones(2, dtype=np.float32))
        self.reporter.put(batch, torch.ones(2))

    def report(self, step_s: float = 0.005) -> bool:
        """A report as the training thread makes it, and the turn that sends it; whether it had to call."""
        self.now += step_s
        self.put()
        self.wake.soon()
        had_to_call = self.wake.is_set
        assert self.rest() < IDLE_S or had_to_call
        self.wake.clear()
        self.rest.later(len(self.reporter.take()))
        return had_to_call


@pytest.fixture
def thread() -> Iterator[Thread]:
    with closing(Wake()) as wake:
        yield Thread(wake)


def test_only_the_first_of_reports_that_follow_closely_calls(thread: Thread) -> None:
    assert [thread.report() for _ in range(4)] == [True, False, False, False]
    assert thread.doze_s == []


def test_a_report_during_a_doze_is_found_after_it(thread: Thread) -> None:
    thread.report()
    thread.during = lambda: bool(thread.put())
    assert thread.rest() == 0.0 and len(thread.doze_s) == 1
    thread.wake.soon()
    assert not thread.wake.is_set


def test_after_some_dozes_without_a_report_the_next_one_calls(thread: Thread) -> None:
    thread.report()
    assert thread.rest() == IDLE_S
    assert len(thread.doze_s) == DOZES
    assert thread.rest() == IDLE_S and len(thread.doze_s) == DOZES, "it goes on sleeping"
    assert [thread.report() for _ in range(2)] == [True, False]


def test_a_doze_is_half_a_step_of_several_reports_too_and_no_shorter_than_the_poll_can_wait(thread: Thread) -> None:
    thread.during = lambda: True
    for step_s in (0.005, 0.012, 0.0005):
        thread.report(step_s)
        thread.rest()
    thread.put()
    thread.report(0.008)
    thread.rest()
    assert thread.doze_s == pytest.approx([0.0025, 0.006, LEAST_DOZE_S, 0.002])


def test_reports_that_follow_slowly_call_and_nobody_dozes_for_them(thread: Thread) -> None:
    thread.report()
    assert [thread.report(2 * LONG_STEP_S) for _ in range(3)] == [False, True, True]
    assert thread.rest() == IDLE_S and thread.doze_s == []
    assert [thread.report() for _ in range(2)] == [True, False], "the pace is back"


def test_a_message_or_a_call_ends_a_doze(thread: Thread) -> None:
    thread.report()
    thread.during = lambda: True
    assert thread.rest() == 0.0 and len(thread.doze_s) == 1


def test_a_copy_from_a_device_is_looked_for_and_not_spun_for(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    thread.report()
    thread.put()
    monkeypatch.setattr("boss.reporter._is_done", lambda _: False)
    assert thread.rest() == COPY_POLL_S


def interleaved(run: Callable[[], float], todo: list[tuple[int, Callable[[], object]]]) -> tuple[float, int]:
    """Run, with each thing done before the instruction of that number, or afterwards; gives also how many they are."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != rest.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        while event == "opcode" and todo and todo[0][0] <= count:
            todo.pop(0)[1]()
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = run()
    finally:
        sys.settrace(before)
    for _, do in todo:
        do()
    return result, count


def test_no_report_is_slept_through_wherever_it_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training thread lays it ready at one instruction of the I/O thread, and looks whether to call at another."""
    monkeypatch.setattr(rest, "DOZES", 1)
    with closing(Wake()) as wake:

        def dozing() -> Thread:
            wake.clear()
            one = Thread(wake)
            one.rest.later(1)
            return one

        timeout_s, instructions = interleaved(dozing().rest, [])
        assert timeout_s == IDLE_S and instructions > 20
        outcomes = set()
        for laid, looked in itertools.combinations_with_replacement(range(instructions + 1), 2):
            one = dozing()
            timeout_s, _ = interleaved(one.rest, [(laid, one.put), (looked, wake.soon)])
            assert timeout_s < IDLE_S or wake.is_set, (laid, looked)
            outcomes.add((timeout_s < IDLE_S, wake.is_set))
        assert outcomes == {(True, False), (True, True), (False, True)}, "each way to be seen occurs"
