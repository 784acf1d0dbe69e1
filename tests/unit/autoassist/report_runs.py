"""Run directories that nobody has trained, for what reads them afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec.structs import replace

from broker.core import BrokerCore
from broker.effects import AppendBatch, AppendLoss, AppendWindow, Put
from broker.hub import Hub
from broker.report import build_report
from broker.rows import EpochRow, PeerRow, RunRow, WindowRecord
from broker.store import RunStore
from protocol.messages import Batch, EpochResult, LossRecord, Segment
from protocol.report import encode_report
from protocol.settings import RunSettings

SIZE = 4
N = 40
STEPS = 20
PI = np.array([0.25, 0.5, 0.75, 1.0], dtype=np.float32)
WRITTEN = "9.9"
"""Version of Python by which a report that is on disk is known."""
SUSPECT = 3
"""An instance that loses much at each report."""


def write_run(folder: Path, *, reported: bool = True, ended: str = "finished", workload: str = "mine") -> Path:
    """A run of two epochs with logs of all kinds; ``reported`` adds the report of its end."""
    store = RunStore(folder)
    for step in range(STEPS):
        store.append(AppendLoss(loss_record(step)))
        store.append(AppendBatch(batch(step)))
        if step % 2 == 0:
            store.append(AppendWindow(window(step // 2)))
    store.commit(rows(ended, workload))
    store.close()
    if reported:
        report = build_report(BrokerCore.from_rows("", [(put.kind, put.row) for put in rows(ended, workload)]), Hub())
        (folder / "report.json").write_bytes(encode_report(replace(report, versions={"python": WRITTEN})))
    return folder


def loss_record(step: int) -> LossRecord:
    """Instance 3 is in every one."""
    ids = np.array([SUSPECT, *range(4, 3 + SIZE)], dtype=np.int64)
    losses = np.array([8.0 + step, *[1.0 / (1 + step)] * (SIZE - 1)], dtype=np.float32)
    return LossRecord(
        position=step, step=step, rank=0, learned_through=step, epoch=0, ids=ids, losses=losses, keep_probabilities=PI
    )


def batch(step: int) -> Batch:
    """Seven steps stale."""
    segment = Segment(count=SIZE, epoch=0, window=step, assistant="assistant-0", version=1, learned_through=step - 7)
    return Batch(
        step=step,
        epoch=0,
        progress=step / STEPS,
        ids=np.arange(SIZE, dtype=np.int64),
        keep_probabilities=PI,
        rank_counts=[SIZE],
        segments=[segment],
    )


def window(number: int) -> WindowRecord:
    """Five to an epoch; the first nobody judges, of the others three quarters are kept."""
    ids = np.arange(8 * (number % 5), 8 * (number % 5) + 8, dtype=np.int64)
    judged = "assistant-0" if number else ""
    return WindowRecord(window=number, epoch=number // 5, ids=ids, kept=6 if number else 8, assistant=judged)


def rows(ended: str, workload: str) -> list[Put]:
    """Of a run that has been through something."""
    run = RunRow(
        run_id="run-1",
        settings=RunSettings(epochs=2, batch_size=SIZE, seed=5),
        dataset_id="mine:1",
        n=N,
        workload=workload,
        generation=1,
        log_step=STEPS,
        instances_trained=STEPS * SIZE,
        off_plan_steps=2,
        ended=ended,  # type: ignore[arg-type]
        counters={"unfiltered_windows_urgent": 1.0, "reports_delivered": 20.0, "values_dropped": 6.0},
        staleness_counts={7: STEPS},
    )
    figures = {"lift": 0.25, "set_aside": 1.0}
    counters = {"starts": 2.0, "windows": 9.0, "offered": 72.0, "kept": 54.0, "leases_expired": 3.0}
    assistant = PeerRow(
        name="assistant-0", role="assistant", incarnation="a", counters=counters, figures=figures, set_aside=[SUSPECT]
    )
    boss = PeerRow(name="boss-0", role="boss", incarnation="b", counters={"starts": 2.0})
    puts = [Put("run", "run", run), Put("peer", "assistant-0", assistant), Put("peer", "boss-0", boss)]
    return puts + [Put("epoch", str(e), epoch_row(e)) for e in range(2)]


def epoch_row(epoch: int) -> EpochRow:
    """With what the Boss has said after it."""
    result = EpochResult(
        epoch=epoch, step=10 * epoch + 9, metric_name="test_accuracy", metric_value=0.5 + 0.375 * epoch,
        boss_instances=40 * (epoch + 1), train_s=0.9, exposed_wait_s=0.1 * (epoch + 1), wall_s=1.0 + epoch,
    )  # fmt: skip
    return EpochRow(epoch=epoch, offered=N, kept=32, unfiltered=8 * (1 - epoch), ended=True, result=result)
