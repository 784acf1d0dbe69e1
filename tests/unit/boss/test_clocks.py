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


def test_pauses_that_follow_each_other_after_a_report_are_in_no_training_clock(watch: Watch) -> None:
    """A checkpoint, then an evaluation; seen from outside at any time, the wall clock stands still meanwhile."""
    clocks = Clocks()
    for _ in range(2):
        trained(clocks, watch, 2.0)
        wall_s = clocks.wall_s
        with clocks.checkpoint():
            watch.now += 4.0
            assert clocks.wall_s == wall_s
        assert clocks.wall_s == wall_s
        with clocks.evaluation():
            watch.now += 9.0
        assert clocks.wall_s == wall_s
    assert (clocks.wall_s, clocks.checkpoint_s, clocks.evaluation_s) == (4.0, 8.0, 18.0)


def test_an_evaluation_before_the_first_batch_is_in_no_training_clock(watch: Watch) -> None:
    clocks = Clocks()
    with clocks.evaluation():
        watch.now += 9.0
    trained(clocks, watch, 2.0)
    assert clocks.wall_s == 2.0


def test_a_resumed_run_goes_on_counting_without_the_pauses_of_before(watch: Watch) -> None:
    before, clocks = Clocks(), Clocks()
    trained(before, watch, 2.0)
    with before.evaluation():
        watch.now += 9.0
    clocks.load_state_dict(before.state_dict())
    assert clocks.wall_s == 2.0
    trained(clocks, watch, 3.0)
    assert (clocks.wall_s, clocks.evaluation_s) == (5.0, 9.0)
