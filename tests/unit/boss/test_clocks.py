"""The Boss's stopwatches."""

from __future__ import annotations

import pytest

from boss.clocks import Clocks


class Watch:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr("boss.clocks.time", made)
    return made


def trained(clocks: Clocks, watch: Watch, seconds: float) -> None:
    """One step that takes so long."""
    clocks.waited(0.0)
    clocks.got_batch()
    watch.now += seconds
    clocks.reported()


def test_a_run_that_was_stopped_while_it_waited_has_waited_for_no_more_than_all_of_its_time(watch: Watch) -> None:
    clocks = Clocks()
    trained(clocks, watch, 2.0)
    watch.now += 30.0
    clocks.waited(30.0)
    assert clocks.exposed_wait_s == 30.0
    assert clocks.wall_s == 32.0


def test_evaluation_after_the_last_report_is_in_no_training_clock(watch: Watch) -> None:
    clocks = Clocks()
    trained(clocks, watch, 2.0)
    clocks.waited(0.0)
    with clocks.evaluation():
        watch.now += 9.0
    assert (clocks.wall_s, clocks.evaluation_s) == (2.0, 9.0)
    trained(clocks, watch, 3.0)
    assert clocks.wall_s == 5.0
