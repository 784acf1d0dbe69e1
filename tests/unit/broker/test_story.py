"""The broker tells what has changed that matters: once when it begins, once when it ends, and nothing per step."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from broker.hub import Hub
from broker.report import build_statistics
from broker.rows import RunRow
from broker.story import AGAIN_S, LONG_S, PERIOD_S, Story, say_taken_back
from protocol.settings import RunSettings
from protocol.statistics import PeerStatistics, RunStatistics
from tests.unit.broker.world import joined

ASSISTANT = PeerStatistics(name="assistant-0", role="assistant", silent_s=0.0)
BOSS = PeerStatistics(name="boss-0", role="boss", silent_s=0.0)
log = logging.getLogger("autoassist.test_story")


def run(**changes: Any) -> RunStatistics:
    usual = {"policy": "autoassist", "n": 100, "ready_batches": 6, "staleness_bound": 96, "peers": [ASSISTANT, BOSS]}
    return RunStatistics(**{**usual, **changes})


@pytest.fixture
def story() -> Story:
    """Of a run that has begun."""
    made = Story(log)
    list(made.told(run()))
    return made


def text(story: Story, statistics: RunStatistics) -> str:
    return "; ".join(words for _, words in story.told(statistics))


def test_a_run_that_goes_well_is_told_by_its_epochs_alone(story: Story) -> None:
    for step in range(1000):
        assert not list(story.told(run(trained_steps=step, epoch_offered=100, epoch_kept=75)))
    assert list(story.told(run(trained_steps=1000, epoch=1, last_epoch_offered=100, last_epoch_kept=70))) == [
        (logging.INFO, "epoch 1 is being cut; kept 70.0% of epoch 0")
    ]


def test_epochs_that_are_too_short_to_be_seen_are_told_to_have_gone_by(story: Story) -> None:
    kept = {"last_epoch_offered": 100, "last_epoch_kept": 50}
    told = [text(story, run(epoch=epoch, **kept)) for epoch in (1, 3, 9)]
    assert told == [
        "epoch 1 is being cut; kept 50.0% of epoch 0",
        "epoch 3 is being cut, epoch 2 went by meanwhile; kept 50.0% of epoch 2",
        "epoch 9 is being cut, epochs 4 to 8 went by meanwhile; kept 50.0% of epoch 8",
    ]


def test_the_beginning_is_told_once() -> None:
    story = Story(log)
    assert text(story, RunStatistics()) == ""
    assert text(story, run()) == "the run begins: policy autoassist, 100 instances"
    assert text(story, run()) == ""


def test_a_broker_that_goes_on_with_a_run_says_so_once_the_boss_is_there() -> None:
    story = Story(log)
    story.goes_on = True
    assert text(story, run(trained_steps=44, peers=[])) == ""
    assert text(story, run(trained_steps=40)).startswith("the run goes on at step 40: policy autoassist, 100 instances")
    assert text(story, run(trained_steps=41)) == ""


def test_a_run_taken_back_to_its_beginning_begins() -> None:
    story = Story(log)
    story.goes_on = True
    assert text(story, run(trained_steps=0)).startswith("the run begins")


def test_what_a_resumed_run_has_lost_is_a_warning_and_where_nothing_is_lost_there_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = RunRow(run_id="run", settings=RunSettings(), dataset_id="d", n=9, log_step=45)
    with caplog.at_level(logging.INFO, "autoassist.test_story"):
        for step in (44, 40, -1):
            say_taken_back(log, step, before)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "the run is at the checkpoint of step 44, and goes on there"),
        ("WARNING", "the run is taken back to the checkpoint of step 40; 4 trained steps after it are void"),
        ("WARNING", "the run is taken back to its beginning; 45 trained steps after it are void"),
    ]


def test_an_assistant_that_begins_anew_at_a_checkpoint_is_not_missed(story: Story) -> None:
    assert text(story, run(peers=[BOSS])) == "" and text(story, run()) == ""


def test_assistants_that_are_gone_and_come_back_are_told(story: Story) -> None:
    assert text(story, run(peers=[BOSS])) == ""
    assert list(story.told(run(peers=[BOSS]))) == [
        (logging.WARNING, "no Assistant is left: windows pass unfiltered until one comes")
    ]
    assert text(story, run(peers=[BOSS])) == ""
    assert text(story, run()) == "an Assistant is there: windows are selected from now on"
    assert text(story, run(peers=[], ended="finished")) == ""  # all leave at the end


def test_a_boss_that_waits_for_long_is_told_and_that_it_goes_on(story: Story) -> None:
    said = [text(story, run(ready_batches=0)) for _ in range(int(LONG_S / PERIOD_S) + 4)]
    assert [bool(words) for words in said].index(True) == int(LONG_S / PERIOD_S) - 1 and sum(map(bool, said)) == 1
    assert "batches lie ready at the Boss again, after 4 s" in text(story, run())
    assert not any(text(story, run(ready_batches=0)) for _ in range(2)) and text(story, run()) == ""


def test_a_boss_that_evaluates_at_the_end_of_its_run_does_not_wait(story: Story) -> None:
    for _ in range(round(LONG_S / PERIOD_S) * 2):
        assert not text(story, run(ready_batches=0, progress=1.0))


def test_no_boss_is_no_boss_that_waits(story: Story) -> None:
    assert not any("ready" in text(story, run(ready_batches=0, peers=[ASSISTANT])) for _ in range(20))


def test_staleness_near_its_bound_is_told_once(story: Story) -> None:
    assert text(story, run(staleness_max=86)) == ""
    assert "90 steps stale, near the bound of 96" in text(story, run(staleness_max=90))
    assert text(story, run(staleness_max=95)) == ""


def test_what_only_grows_is_told_at_most_once_a_minute_with_all_that_came(story: Story) -> None:
    assert text(story, run(values_dropped=64)).startswith("64 loss values did not come")
    rounds = int(AGAIN_S / PERIOD_S)
    said = [text(story, run(values_dropped=64 + i)) for i in range(1, rounds + 1)]
    assert sum(map(bool, said)) == 1 and said[-1].startswith(f"{rounds} loss values")


def test_refused_input_is_told_with_its_causes_and_senders_but_repetitions_are_not(story: Story) -> None:
    assert text(story, run(refused={"duplicate": 99}, refused_from={"boss-0": 99})) == ""
    said = text(story, run(refused={"duplicate": 99, "bad_message": 2}, refused_from={"strangers": 2}))
    assert said == "refused 2 inputs (bad_message) from strangers"


def test_a_run_that_was_taken_back_says_from_where_it_goes_on(story: Story) -> None:
    assert text(story, run(trained_steps=900)) == ""
    assert text(story, run(trained_steps=500)) == "the run goes on from step 500"


def test_statistics_are_handed_on_and_lines_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[RunStatistics] = []

    class Other:
        def show(self, statistics: RunStatistics) -> None:
            shown.append(statistics)

    with caplog.at_level(logging.INFO, "autoassist.test_story"):
        Story(log, Other()).show(run())
    assert len(shown) == 1 and "the run begins" in caplog.text


def test_the_statistics_tell_of_the_epoch_before_the_one_that_is_being_cut() -> None:
    world = joined(20, assistants=0, epochs=3, batch_size=10, window_size=10, prefetch_batches=3)
    world.grant()
    found = build_statistics(world.core, Hub(), 0.0)
    assert (found.epoch, found.epoch_offered, found.last_epoch_offered, found.last_epoch_kept) == (1, 10, 20, 20)
