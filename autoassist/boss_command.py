"""``autoassist boss``; apart from the other roles because it imports torch."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autoassist.curves import CurveSettings, drawing, of_boss
from autoassist.exporting import exporting, of_rank
from autoassist.roles import Flat, LogSettings, WorkloadName, WorkloadSettings, workload_title
from boss import watch
from boss.checkpoint import BossState, CheckpointSettings, open_checkpoints, under_elasticity
from boss.feed import Feed
from boss.files import save_weights
from boss.line import LocalSettings
from boss.ranks import comes_again, process_group, ranks_here
from boss.snapshots import SnapshotSettings, taking
from boss.train import TrainSettings, train
from protocol.client import ConnectSettings
from protocol.errors import BrokerUnreachable
from protocol.exporter import ExporterSettings
from protocol.logs import speak_as
from protocol.role_metrics import BOSS_METRICS
from protocol.role_statistics import BossStatistics
from protocol.settings import RunSettings
from protocol.signals import STOPS, StopSignal
from workloads import CheckedWorkload, validate_workload

log = logging.getLogger("autoassist")


@dataclass(frozen=True, kw_only=True)
class BossCommand:
    """The Boss: trains on the batches that the broker sends, reports their losses."""

    workload: WorkloadName
    run: Flat[RunSettings] = RunSettings()
    connect: Flat[ConnectSettings] = ConnectSettings()
    train: Flat[TrainSettings] = TrainSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    checkpoints: Flat[CheckpointSettings] = CheckpointSettings()
    snapshots: Flat[SnapshotSettings] = SnapshotSettings()
    local: Flat[LocalSettings] = LocalSettings()
    monitor: Flat[ExporterSettings] = ExporterSettings()
    curves: Flat[CurveSettings] = CurveSettings()
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Train until the run ends; several ranks that nobody has launched are launched here."""
        if self.run.world_size > 1:
            from autoassist.rank_launch import are_launched, launch_ranks

            if not are_launched():
                return launch_ranks(self.run.world_size, sys.argv[1:])
        return self._train()

    def _train(self) -> int:
        """As one rank; returns the exit code."""
        checkpoints = under_elasticity(self.checkpoints)
        device = self.train.resolved_device()
        peer = f"boss-{os.environ.get('RANK', '0')}"
        speak_as("boss", peer)
        stops = (signal.SIGINT,) if comes_again() else STOPS
        with StopSignal(stops, second_kills=True) as stop, _interrupted_by(stop), process_group(device):
            saver, state = open_checkpoints(checkpoints)
            workload = CheckedWorkload(self.data.load(self.workload))
            validate_workload(workload)
            # A port that is taken, or a folder that cannot be written, must not end a run that others train.
            with self._watched(peer) as show, self._connected(workload, state, resumes=checkpoints.resume) as feed:
                stop.on_stop = None  # what comes from here on ends the run in order
                show(feed)
                try:
                    with taking(self.snapshots) as snapshots:
                        boss = train(
                            workload, feed, self.train, stop=stop, saver=saver, state=state, snapshots=snapshots
                        )
                    is_kept = feed.ended == "finished"
                    if is_kept:
                        _keep(boss, feed, checkpoints.save)
                except Exception:
                    if feed.ended == "finished":  # a run whose weights are not saved is not
                        feed.close("failed")
                    raise
            if not is_kept:
                _keep(boss, feed, checkpoints.save)
        return _ended(feed, self.connect.broker, checkpoints.save)

    def _connected(self, workload: CheckedWorkload, state: BossState | None, *, resumes: bool) -> Feed:
        run = self.run
        return Feed.connect(
            self.connect.broker,
            **instances_of(workload, run),
            connect_timeout_s=self.connect.connect_timeout_s,
            reconnect_timeout_s=self.connect.reconnect_timeout_s,
            keys=self.connect.keys,
            workload=workload_title(self.workload, self.data.model, workload.fall_back),
            settings=run if run.world_size > 1 else dataclasses.replace(run, world_size=ranks_here()),
            local=self.local,
            state=(state.run if state is not None else {}) if resumes else None,
        )

    @contextmanager
    def _watched(self, peer: str) -> Iterator[Callable[[Feed], None]]:
        """Whoever wants to see how a rank trains, sees it from the moment on that its feed is shown."""
        shown: list[Feed] = []

        def show(feed: Feed) -> None:
            speak_as("boss", peer, lambda: feed.steps - 1)
            shown.append(feed)

        def look() -> BossStatistics | None:
            return watch.statistics_of(shown[0]) if shown else None

        def turned_at() -> float:
            return watch.turned_at(shown[0]) if shown else time.monotonic()

        port = of_rank(self.monitor, int(peer.rpartition("-")[2]))
        with (
            exporting(port, "Boss", BOSS_METRICS, look, turned_at),
            drawing(self.curves, peer, look, of_boss),
        ):
            yield show


@contextmanager
def _interrupted_by(stop: StopSignal) -> Iterator[None]:
    """Until there is a feed to stop, the first signal ends whatever is done; others do not disturb that end."""

    def interrupt() -> None:
        stop.on_stop = None
        raise KeyboardInterrupt

    stop.on_stop = interrupt
    if stop.requested:
        interrupt()
    yield


def instances_of(workload: CheckedWorkload, run: RunSettings) -> dict[str, Any]:
    """What a Boss says of the instances that it trains."""
    fingerprint = workload.fingerprint()
    lengths = workload.lengths() if run.max_tokens is not None else None
    return {"n": fingerprint.n, "dataset_id": fingerprint.dataset_id, "lengths": lengths}


def _ended(feed: Feed, broker: str, save: Path | None) -> int:
    """The exit code of a Boss that has trained; raises BrokerUnreachable where its last reports may be lost."""
    if feed.ended == "failed":
        log.error("the broker ended the run as failed")
    elif not feed.close():
        kept = f"; the weights are in {save}" if save is not None else ""
        raise BrokerUnreachable(f"the broker at {broker} did not acknowledge the run's last reports{kept}")
    return {"finished": 0, "stopped": 0}.get(feed.ended, 1)


def _keep(boss: nn.Module, feed: Feed, path: Path | None) -> None:
    """Rank 0's weights; those of a run without a step are nobody's, and may lie where better ones do."""
    if feed.rank or not feed.steps:
        return
    if path is not None:
        save_weights(boss, path)
    else:
        log.warning("the trained weights are not kept: --save FILE was not given")
