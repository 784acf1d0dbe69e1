"""What a Boss and an Assistant say of themselves to another thread."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from assistant.watch import statistics_of as statistics_of_assistant
from boss.plan import RankBatch
from boss.reporter import Reporter
from boss.watch import statistics_of, turned_at
from tests.harness.local_broker import local_broker
from tests.unit.assistant.test_core import loss_record, make, window
from tests.unit.boss.test_feed import Squares, connect, losses_of

DEADLINE_S = 60.0


def test_a_feed_is_seen_as_it_is(tmp_path: Path) -> None:
    with local_broker(tmp_path) as address, connect(address, epochs=1) as feed:
        seen = statistics_of(feed)
        assert (seen.steps, seen.instances, seen.loss, seen.is_connected) == (0, 0, None, True)
        for x, _ in feed.loader(Squares()):
            feed.report(losses_of(x)).backward()
        feed.record_metric("fit", 0.25)
        deadline = time.monotonic() + DEADLINE_S
        while (seen := statistics_of(feed)).reports_sent < seen.steps and time.monotonic() < deadline:
            pass
        assert (seen.steps, seen.instances, seen.progress, seen.evaluation) == (19, 300, 1.0, 0.25)
        assert seen.loss == pytest.approx(float(x.mean()) * 0.01) and seen.keep_probability == 1.0
        assert seen.staleness_steps is None  # unfiltered
        assert seen.wall_s > 0.0 and time.monotonic() - turned_at(feed) < DEADLINE_S


def test_losses_that_are_not_finite_are_left_out_of_what_is_seen_and_a_skipped_batch_is_not_seen() -> None:
    reporter = Reporter(rank=0)
    batch = RankBatch(3, 0, 0.0, np.arange(2), np.array([0.5, 1.0], dtype=np.float32), staleness=9)
    reporter.put(batch, torch.tensor([0.5, float("nan")]))
    reporter.take()
    assert reporter.latest is not None and reporter.latest.batch is batch
    reporter.put(RankBatch(4, 0, 0.0, np.arange(2), np.ones(2, dtype=np.float32)), torch.ones(2), is_skipped=True)
    reporter.take()
    assert reporter.latest.batch is batch


def test_an_assistant_is_seen_once_it_has_joined() -> None:
    core = make()
    client = SimpleNamespace(is_open=True)
    assistant = SimpleNamespace(core=None, client=client, settings=SimpleNamespace(name="assistant-0"))
    assert statistics_of_assistant(assistant) is None  # type: ignore[arg-type]
    assistant.core = core
    core.receive(window(0))
    core.receive(loss_record(0))
    seen = statistics_of_assistant(assistant)  # type: ignore[arg-type]
    assert seen is not None and (seen.name, seen.waiting_windows, seen.waiting_records) == ("assistant-0", 1, 1)
    while core.has_work():
        core.work()
    seen = statistics_of_assistant(assistant)  # type: ignore[arg-type]
    assert seen is not None and (seen.waiting_windows, seen.waiting_records, seen.learned_through) == (0, 0, 0)
    assert (seen.instances_scored, seen.instances_kept, seen.instances_learned) == (8, 8, 2)
