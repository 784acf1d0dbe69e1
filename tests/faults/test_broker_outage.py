"""The broker dies: nothing is lost, nothing is counted twice, and the Boss trains on."""

from __future__ import annotations

import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from protocol.report import read_report
from protocol.settings import RunSettings
from protocol.statistics import RunStatistics
from tests.processes.heavy_digits import Pace
from tests.processes.roles import DEADLINE_S, HERE, Statistics, export, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def trained_by_epoch(batches: list[dict[str, Any]]) -> Counter[tuple[int, int]]:
    """How often each (epoch, ID) was trained from the plan."""
    trained: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        ids = iter(batch["ids"])
        for segment in batch["segments"]:
            trained.update((segment["epoch"], next(ids)) for _ in range(segment["count"]))
    return trained


def warmed_up_with(run_dir: Path, windows: list[dict[str, Any]]) -> set[int]:
    """IDs of the first epoch that no policy may leave out: all of them, or those before the window in which it may."""
    report = read_report(run_dir)
    settings = RunSettings(**report.settings)
    first = sorted((w for w in windows if w["epoch"] == 0), key=lambda window: window["window"])
    ids = [i for window in first for i in window["ids"]]
    sure = len(ids) if settings.warmup >= 1 else int(settings.warmup * report.n) - settings.window_instances
    return set(ids[: max(0, sure)])


def assert_nothing_lost_or_doubled(run_dir: Path, epochs: int) -> None:
    """Every ID was offered once per epoch, trained at most once, and each trained one has one loss."""
    report = read_report(run_dir)
    batches, losses, windows = (export(run_dir, what) for what in ("batches", "losses", "windows"))
    assert report.status == "finished"
    assert report.selection.offered == epochs * report.n
    offered = Counter((window["epoch"], i) for window in windows for i in window["ids"])
    assert offered == {(epoch, i): 1 for epoch in range(epochs) for i in range(report.n)}
    trained = trained_by_epoch(batches)
    assert trained.keys() <= offered.keys()
    assert max(trained.values()) == 1
    assert sum(trained.values()) == report.selection.kept
    assert warmed_up_with(run_dir, windows) <= {i for epoch, i in trained if epoch == 0}
    places = [(b["step"], b["rank"]) for b in batches]
    assert places == sorted(set(places)) and {step for step, _ in places} == set(range(places[-1][0] + 1))
    real = [(b["step"], i) for b in batches for i in b["ids"][: len(b["ids"]) - b["padding"]]]
    assert [(row["step"], row["id"]) for row in losses] == real
    stale = [b["staleness"] for b in batches if b["staleness"] is not None]
    assert max(stale, default=0) <= report.selection.staleness_steps.bound


def assert_hardly_a_wait(statistics: RunStatistics) -> None:
    """Of the run up to now, as the Boss has told it after its latest epoch."""
    assert statistics.exposed_wait_s <= 0.02 * statistics.wall_s > 0


def test_a_broker_killed_again_and_again_loses_nothing_and_counts_nothing_twice(tmp_path: Path, pace: Pace) -> None:
    seed, epochs = 21, 60  # one of which much is left out has 4 steps, and with the last, whole ones that is enough
    rng = random.Random(seed)
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        again = ("--port", address.rpartition(":")[2], "--statistics-port", statistics_address.rpartition(":")[2])
        boss = start("boss", HEAVY, "--broker", address, "--epochs", str(epochs), environment=pace.environment)
        assistant = start("assistant", HEAVY, "--broker", address)
        statistics = Statistics(statistics_address)
        for _ in range(5):
            step = statistics.last.trained_steps + rng.randrange(5, 40)
            statistics.wait_until(lambda s, step=step: s.trained_steps >= step, f"step {step} (seed {seed})")
            broker.kill()
            broker = start("broker", "--run-dir", str(tmp_path), *again)
        statistics.now()
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, epochs)


def wait_for_steps_off_the_plan(boss_metrics: str, more_than: int) -> None:
    """Until a Boss that lives without a broker says so, where it serves its own figures."""
    deadline, found = time.monotonic() + DEADLINE_S, 0.0
    while found <= more_than:
        assert time.monotonic() < deadline, f"{found:.0f} steps off the plan"
        threading.Event().wait(0.1)
        try:
            with urllib.request.urlopen(f"http://{boss_metrics}/metrics", timeout=DEADLINE_S) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:  # it has no figures at this moment
            error.close()
            continue
        found = float(re.findall(r"^autoassist_boss_own_off_plan_steps_total\S* (\S+)$", text, re.M)[0])


def test_through_a_long_outage_the_boss_trains_off_the_plan_and_then_goes_on_with_it(
    tmp_path: Path, pace: Pace
) -> None:
    """The broker stays away until the Boss has trained well beyond what it had in hand."""
    epochs = 24
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        words = ("--broker", address, "--epochs", str(epochs), "--staleness-bound", "30", "--http-port", "0")
        boss = start("boss", HEAVY, *words, environment=pace.environment)
        figures = boss.wait_for("metrics on http://").partition("http://")[2].partition("/")[0]
        assistant = start("assistant", HEAVY, "--broker", address)
        statistics = Statistics(statistics_address)
        statistics.wait_until(lambda s: s.epoch >= 2, "the third epoch")
        broker.kill()
        boss.wait_for("no sign of the broker")
        boss.wait_for("waiting for the broker")
        wait_for_steps_off_the_plan(figures, more_than=20)
        broker = start("broker", "--run-dir", str(tmp_path), "--port", address.rpartition(":")[2])
        boss.wait_for("the broker answers again")
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, epochs)
    report, batches = read_report(tmp_path), export(tmp_path)
    off_plan = [b for b in batches if b["kind"] == "off_plan"]
    assert len(off_plan) == report.boss.off_plan_steps > 20
    assert sum(len(b["ids"]) for b in off_plan) == report.boss.off_plan_instances
    assert report.boss.instances == report.selection.kept + report.boss.off_plan_instances


def test_a_boss_may_be_told_to_wait_for_its_broker(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        words = ("--broker", address, "--epochs", "8", "--on-broker-loss", "wait")
        boss = start("boss", HEAVY, *words, environment=pace.environment)
        statistics = Statistics(statistics_address)
        statistics.wait_until(lambda s: s.trained_steps > 10, "some steps")
        broker.kill()
        boss.wait_for("waiting for the broker")
        broker = start("broker", "--run-dir", str(tmp_path), "--port", address.rpartition(":")[2])
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, 8)
    assert read_report(tmp_path).boss.off_plan_steps == 0
