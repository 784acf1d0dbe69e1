"""Batches by tokens in real processes: an Assistant, a broker that dies, and steps off the plan meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_nothing_lost_or_doubled
from tests.processes.heavy_digits import Pace
from tests.processes.roles import HERE, Statistics, export, roles, start_broker
from tests.processes.token_digits import TokenDigits

pytestmark = pytest.mark.processes
TOKENS = f"{HERE / 'token_digits.py'}"
BUDGET, EPOCHS = 2048, 12


def test_a_broker_killed_in_a_run_by_tokens_has_the_lengths_again_and_every_batch_keeps_to_the_budget(
    tmp_path: Path, pace: Pace
) -> None:
    lengths = TokenDigits().lengths()
    run = ("--max-tokens", str(BUDGET), "--epochs", str(EPOCHS))
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        boss = start("boss", f"{TOKENS}:TokenDigits", "--broker", address, *run, environment=pace.environment)
        assistant = start("assistant", f"{TOKENS}:TokenDigits", "--broker", address)
        statistics = Statistics(statistics_address)
        statistics.wait_until(lambda s: s.trained_steps > 5, "some steps")
        broker.kill()
        boss.wait_for("no sign of the broker")
        boss.wait_for("waiting for the broker")
        broker = start("broker", "--run-dir", str(tmp_path), "--port", address.rpartition(":")[2])
        boss.wait_for("the broker answers again")
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, EPOCHS)
    batches, report = export(tmp_path), read_report(tmp_path)
    assert any(b["kind"] == "off_plan" for b in batches)
    assert all(len(b["ids"]) * lengths[b["ids"]].max(initial=0) <= BUDGET for b in batches)
    assert report.tokens is not None and report.tokens.padding_fraction < 0.15
    assert report.settings["batch_size"] == int(BUDGET / lengths.mean())
