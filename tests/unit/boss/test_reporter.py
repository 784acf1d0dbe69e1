"""Losses leave the training thread by a ring that never blocks."""

from __future__ import annotations

import numpy as np
import torch

from boss.plan import RankBatch
from boss.reporter import Reporter
from protocol.messages import OffPlanReport


def batch(step: int) -> RankBatch:
    return RankBatch(step, 0, 0.0, np.arange(4), np.ones(4, dtype=np.float32))


def test_values_are_those_at_the_time_of_the_report() -> None:
    reporter = Reporter(rank=0)
    losses = torch.tensor([1.0, 2.0])
    reporter.put(batch(7), losses)
    losses.zero_()
    (report,) = reporter.take()
    assert (report.step, report.through, report.rank) == (7, 7, 0)
    assert report.losses.tolist() == [1.0, 2.0]


def test_a_full_ring_drops_values_and_still_acknowledges() -> None:
    reporter = Reporter(rank=1, slots=3)
    for step in range(5):
        reporter.put(batch(step), torch.ones(4))
    reports = reporter.take()
    assert [r.step for r in reports] == [0, 1, 2, 3, 4]
    assert [len(r.losses) for r in reports] == [4, 4, 4, 0, 0]
    assert reporter.values_dropped == 8


def test_half_precision_losses_are_reported_in_float32() -> None:
    reporter = Reporter(rank=0)
    reporter.put(batch(0), torch.tensor([0.5, 1.5], dtype=torch.bfloat16))
    (report,) = reporter.take()
    assert report.losses.dtype == "float32" and report.losses.tolist() == [0.5, 1.5]


def test_losses_that_need_gradients_are_reported_without() -> None:
    reporter = Reporter(rank=0)
    losses = torch.ones(2, requires_grad=True) * 3
    reporter.put(batch(0), losses)
    assert reporter.take()[0].losses.tolist() == [3.0, 3.0]
    losses.sum().backward()


def test_what_is_not_finite_is_counted_and_passed_on() -> None:
    reporter = Reporter(rank=0)
    reporter.put(batch(0), torch.tensor([1.0, float("nan"), float("inf")]))
    assert len(reporter.take()[0].losses) == 3
    assert reporter.values_not_finite == 2


def test_the_cost_of_a_report_is_measured() -> None:
    reporter = Reporter(rank=0)
    assert reporter.timing_us(0.5) == 0.0
    reporter.put(batch(0), torch.ones(1))
    reporter.take()
    assert 0.0 < reporter.timing_us(0.5) <= reporter.timing_us(0.99)


def test_an_off_plan_batch_is_reported_with_its_ids() -> None:
    reporter = Reporter(rank=0)
    drawn = RankBatch(3, 0, 0.0, np.array([7, 9]), np.ones(2, dtype=np.float32), off_plan=True)
    reporter.put(drawn, torch.tensor([0.5, 1.5]))
    (report,) = reporter.take()
    assert isinstance(report, OffPlanReport)
    assert (report.number, report.through, report.ids.tolist()) == (3, 3, [7, 9])
