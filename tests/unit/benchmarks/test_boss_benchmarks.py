"""The benchmarks of the Boss's side measure what they say, and write down all that they measure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
import torch

from benchmarks import boss_overhead, exposed_wait, startup
from benchmarks.boss_overhead import OverheadBenchmark, Timed, figures, timed
from benchmarks.boss_pass_all import Training, no_model, pass_all
from benchmarks.boss_roles import Spin, batches
from benchmarks.boss_share import assistant_share
from benchmarks.exposed_wait import WaitBenchmark
from benchmarks.figures import Figure, Figures
from benchmarks.startup import StartupBenchmark, first_batch_s
from boss.feed import Feed
from tests.harness.local_broker import local_broker

N, BATCH = 640, 16


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    with (
        local_broker(tmp_path) as address,
        Feed.connect(address, n=N, batch_size=BATCH, epochs=100, policy="uniform") as found,
    ):
        yield found


def test_a_step_is_timed_from_its_batch_to_its_mean(feed: Feed) -> None:
    found = timed(batches(feed), boss_overhead.reporting(feed), torch.ones(BATCH, requires_grad=True))
    assert feed.steps == 1 and found.feed > 0 and found.report > 0 and found.both == found.feed + found.report


def test_what_the_feed_adds_is_told_from_what_a_plain_loop_takes() -> None:
    settings = OverheadBenchmark(step_ms=2.0)
    found = figures(settings, [Timed(10.0, 30.0, 35.0)] * 3, [Timed(5.0, 15.0, 20.0)] * 3)
    assert (found["p50_us"], found["plain_p50_us"], found["cpu_p50_us"]) == (40.0, 20.0, 35.0)
    assert found["step_share_percent"] == pytest.approx(2.0) and found["added_share_percent"] == pytest.approx(1.0)
    assert found.keys() <= boss_overhead.KNOWN.keys()


def test_both_loops_take_the_mean_of_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "SGD", Mock())  # torch's own takes seconds to import what it never needs here
    images, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
    seen = []

    def mean(losses: torch.Tensor) -> torch.Tensor:
        seen.append(losses.shape)
        return losses.mean()

    Training(1)(images, labels, mean)
    no_model(images, labels, mean)
    assert seen == [(4,), (4,)]


def test_an_assistants_work_is_measured_beside_the_step_that_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.boss_share.N", 2000)
    monkeypatch.setattr("benchmarks.boss_share.WIDTH", 4)
    monkeypatch.setattr("benchmarks.boss_share.Training", lambda _: no_model)
    found = assistant_share(records=4, batch_size=32, seed=1)
    assert found["learn_percent"] == pytest.approx(found["learn_us"] / found["boss_step_ms"] / 10)
    spent_ms = (found["learn_us"] + found["score_us"] + found["code_us"]) / 1000
    assert found["bosses"] == pytest.approx(found["boss_step_ms"] / spent_ms)
    assert found.keys() <= boss_overhead.KNOWN.keys()


def test_waits_are_those_of_the_measured_time(feed: Feed) -> None:
    settings = WaitBenchmark(n=N, batch_size=BATCH, step_ms=0.1)
    training = exposed_wait.Training(feed, settings, Spin.small())
    training.train(0.05)
    feed.clocks.exposed_wait_s += 1000.0  # of before
    found = training.train(0.05)
    assert 0.0 <= found["wait_percent"] <= 100.0 and found["scored_percent"] == 0.0 and found["steps_per_s"] > 0


def test_an_unfiltered_batch_is_no_first_filtered_one(feed: Feed) -> None:
    feed.stop()
    with pytest.raises(AssertionError, match="ended before"):
        first_batch_s(feed, StartupBenchmark(), filtered=False)


def test_every_figure_has_a_line_and_the_file_has_all_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Figures()
    for value in (3.0, 1.0, 2.0):
        found.note(wait_percent=value, more=value)
    found.print("waits", {"wait_percent": Figure("wait, %", "≤ 0.5")})
    assert "| wait, % | 2.00 (1.00 … 3.00) | ≤ 0.5 |" in capsys.readouterr().out
    found.write(tmp_path / "f.json", WaitBenchmark(seed=7))
    written = msgspec.json.decode((tmp_path / "f.json").read_bytes())
    assert written["wait_percent"] == 2.0 and written["values"]["more"] == [3.0, 1.0, 2.0]
    assert written["settings"]["seed"] == 7 and "machine" in written


def test_names_of_the_figures_are_those_that_are_measured() -> None:
    kinds = {f"{kind}_{when}" for kind in ("spinning", "sleeping") for when in ("calm", "killed")}
    parts = ("wait_percent", "steps_per_s", "off_plan_percent", "scored_percent")
    assert exposed_wait.known().keys() == {f"{kind}_{part}" for kind in kinds for part in parts}
    assert callable(pass_all) and {"broker_s", "assistant_s", "scored_s", "filtered_s"} <= startup.KNOWN.keys()
