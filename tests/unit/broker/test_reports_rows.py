"""How reports are kept until the loss log has them: each once, beside the batch that they are about."""

from __future__ import annotations

import numpy as np
import pytest

from broker.core import BrokerCore
from broker.effects import Effect, MessageReceived, Put, Tick
from broker.reports import Reports
from broker.rows import ReportsRow, StepRow, decode_row
from protocol.messages import Batch, LossReport
from tests.unit.broker.world import World, joined

RANKS = 4


def with_a_batch() -> World:
    """Every rank has the first step."""
    world = joined(400, assistants=0, batch_size=4, world_size=RANKS)
    world.grant()
    assert world.pull()
    return world


def report(rank: int) -> LossReport:
    return LossReport(step=0, through=0, rank=rank, losses=np.full(4, rank, np.float32))


def written(effects: list[Effect]) -> list[tuple[str, str]]:
    """Rows of a step."""
    return [(e.kind, e.key) for e in effects if isinstance(e, Put) and e.kind in ("step", "reports")]


def kept(world: World) -> dict[str, list[int]]:
    """Rows of reports in the store: the ranks of each."""
    rows = {key: decode_row(kind, raw) for (kind, key), raw in world.rows.items() if kind == "reports"}
    return {key: sorted(row.losses) for key, row in rows.items() if isinstance(row, ReportsRow)}


def test_a_batch_is_written_once_and_each_report_that_waits_once_too() -> None:
    """All of a step, again with each report, was most of what a run of many ranks wrote."""
    world = with_a_batch()
    peers = world.boss.ranks
    assert written(world.say(peers[3], report(3))) == [("reports", "0.0")]
    assert written(world.say(peers[0], report(0))) == [], "it is logged at once"
    assert written(world.say(peers[2], report(2))) == [("reports", "0.1")]
    assert kept(world) == {"0.0": [3], "0.1": [2]}
    assert written(world.say(peers[1], report(1))) == []
    assert [r.rank for r in world.losses] == [0, 1, 2, 3]
    assert kept(world) == {} and not world.core.state.reports


def test_reports_that_are_committed_together_share_a_row() -> None:
    core = with_a_batch().core
    effects = [core.take(MessageReceived(f"boss-{rank}", report(rank), seq=1)) for rank in (3, 2)]
    assert [written(e) for e in effects] == [[("reports", "0.0")]] * 2
    core.handle(Tick(), 0.0)
    assert written(core.take(MessageReceived("boss-1", report(1), seq=1))) == [("reports", "0.1")]
    assert [sorted(row.losses) for row in core.state.reports[0].rows] == [[2, 3], [1]]


def test_a_restarted_broker_goes_on_with_the_reports_that_wait_and_those_that_are_logged() -> None:
    world = with_a_batch()
    for rank in (3, 0, 2):
        world.say(world.boss.ranks[rank], report(rank))
    world.crash()
    assert world.core.state.reports[0].ranks == {0, 2, 3} and set(world.core.state.reports[0].losses) == {2, 3}
    world.rejoin_all()
    world.say(world.boss.ranks[1], report(1))
    assert [(r.rank, r.losses[0]) for r in world.losses] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]


def test_reports_that_an_earlier_version_has_kept_with_the_batch_are_taken_up() -> None:
    world = with_a_batch()
    world.say(world.boss.ranks[0], report(0))
    rows = [(kind, decode_row(kind, raw)) for (kind, _), raw in world.rows.items()]
    step = next(row for _, row in rows if isinstance(row, StepRow) and row.batch.step == 0)
    step.reported, step.losses = [0, 2], {2: report(2).losses}
    core = BrokerCore.from_rows("", rows)
    assert core.state.reports[0].ranks == {0, 2} and list(core.state.reports[0].losses) == [2]


@pytest.mark.parametrize(("padding", "places"), [(0, [(0, 2), (2, 5), (5, 6)]), (2, [(0, 2), (2, 4), (5, 5)])])
def test_each_rank_has_its_place_in_the_batch_and_padding_is_nobodys(
    padding: int, places: list[tuple[int, int]]
) -> None:
    batch = Batch(
        step=0,
        epoch=0,
        progress=0.0,
        ids=np.arange(6),
        keep_probabilities=np.ones(6, dtype=np.float32),
        rank_counts=[2, 3, 1],
        segments=[],
        padding=padding,
    )
    reports = Reports(batch)
    assert [(reports.place(rank).start, reports.place(rank).stop) for rank in range(3)] == places
