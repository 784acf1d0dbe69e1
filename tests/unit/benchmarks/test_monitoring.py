"""What being watched costs is told by turns beside each other, so that a machine that grows busier costs nothing."""

from __future__ import annotations

import pytest

from benchmarks.monitoring import Turn, differences


def turn(*, watched: bool, busy_us: float) -> Turn:
    return Turn(watched=watched, steps=1, busy_us=busy_us, thread_us=0.0, cores=0.0, paced=1.0)


def test_a_machine_that_grows_busier_all_the_time_is_no_cost_of_being_watched() -> None:
    turns = [turn(watched=bool(i % 2), busy_us=100.0 + 10.0 * i) for i in range(7)]
    assert differences(turns, "busy_us") == [0.0, 0.0, 0.0]


def test_what_only_the_watched_turns_have_is_the_cost() -> None:
    turns = [turn(watched=bool(i % 2), busy_us=100.0 + 5.0 * (i % 2)) for i in range(6)]
    assert differences(turns, "busy_us") == pytest.approx([5.0] * 3)
