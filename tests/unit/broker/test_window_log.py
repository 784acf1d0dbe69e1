"""The log of decided windows: every window once, with all its IDs, whatever happens to anybody."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from broker.effects import AppendWindow
from broker.rows import WindowRecord
from tests.unit.broker.test_core_cutting import selected_early
from tests.unit.broker.test_core_long_lives import EVENTS, one_event, tight
from tests.unit.broker.test_core_machine import BrokerMachine
from tests.unit.broker.world import World, joined, train_through

LIVES = 40


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[World, list[WindowRecord]]:
    """What each world's broker has committed to its log of windows."""
    found: dict[World, list[WindowRecord]] = {}
    commit = World._commit

    def logging(world: World) -> None:
        log = found.setdefault(world, [])
        for _, effects, _ in world._pending:
            log.extend(effect.record for effect in effects if isinstance(effect, AppendWindow))
        commit(world)

    monkeypatch.setattr(World, "_commit", logging)
    return found


def assert_every_id_is_offered_once(world: World, log: list[WindowRecord]) -> None:
    """Checked against the order as the audit reads it, and the kept against what was put in stock."""
    assert max(Counter(record.window for record in log).values(), default=1) == 1
    offered: dict[int, list[int]] = {}
    for record in log:
        assert np.array_equal(record.ids, world.audit.window_ids(record.window)) and record.ids.dtype == np.int64
        assert record.epoch == record.window // world.audit.windows_per_epoch
        offered.setdefault(record.epoch, []).extend(record.ids.tolist())
        if record.learned_through is None:
            assert record.reason and not record.assistant and record.kept == len(record.ids)
        else:
            selected = world.audit.selected.get(record.window)
            assert record.assistant and not record.reason
            assert record.kept == (len(selected.kept_ids) if selected is not None else 0)
    whole = len(world.audit.ended) - (world.settings.boss_instances is not None)
    for epoch in range(whole):
        assert sorted(offered[epoch]) == list(range(world.n))


def test_every_id_is_offered_exactly_once_an_epoch_through_all_mishaps(logs: dict[World, list[WindowRecord]]) -> None:
    """Brokers killed before and after a commit, outages, leases that run out, stock that goes stale, returns."""
    met: Counter[str] = Counter()
    for seed in range(LIVES):
        dice, machine = random.Random(seed), BrokerMachine()
        machine.start(run=tight(dice), alone=dice.random() < 0.3, joined=True)
        for _ in range(EVENTS):
            one_event(machine, dice)
        machine.teardown()
        assert_every_id_is_offered_once(machine.world, logs[machine.world])
        met.update(machine.world.core.state.the_run.counters.keys())
    assert met["reopened_windows"] and met["returned_steps"]


@pytest.mark.parametrize("settings", [{"boss_instances": 50}, {"epochs": 3, "policy": "uniform"}, {"epochs": 2}])
def test_a_run_without_faults_logs_each_window_with_what_it_kept(
    logs: dict[World, list[WindowRecord]], settings: dict[str, object]
) -> None:
    """40 instances in windows of 8, of which an Assistant keeps about half."""
    world = joined(40, batch_size=4, window_size=8, **settings)
    world.finish()
    assert_every_id_is_offered_once(world, logs[world])
    rows = world.core.state.epochs.values()
    assert sum(record.kept for record in logs[world]) == sum(row.kept for row in rows)
    reasons = Counter(record.reason for record in logs[world] if record.reason)
    counters = world.core.state.the_run.counters
    assert reasons == {k.removeprefix("unfiltered_windows_"): v for k, v in counters.items() if "unfiltered_" in k}


def test_a_reopened_window_is_logged_as_it_was_selected_and_not_again(logs: dict[World, list[WindowRecord]]) -> None:
    """The record is of the decision; that all four passed in the end stands in the batches."""
    world = selected_early(lead=0)
    train_through(world, 80)
    (record,) = [record for record in logs[world] if record.window == 18]
    assert (record.kept, len(record.ids), record.assistant) == (3, 4, "quick")
    assert world.core.state.the_run.counters["reopened_windows"] == 1
    world.finish()
