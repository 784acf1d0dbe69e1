"""``autoassist boss``; apart from the other roles because its settings import torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from autoassist.curves import CurveSettings
from autoassist.roles import Flat, LogSettings, WorkloadName, WorkloadSettings, execute_boss
from boss.checkpoint import CheckpointSettings
from boss.line import LocalSettings
from boss.snapshots import SnapshotSettings
from boss.train import TrainSettings
from protocol.client import ConnectSettings
from protocol.exporter import ExporterSettings
from protocol.settings import RunSettings


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
        return execute_boss(
            self.workload,
            self.run,
            connect=self.connect,
            train_settings=self.train,
            data=self.data,
            checkpoints=self.checkpoints,
            snapshots=self.snapshots,
            local=self.local,
            monitor=self.monitor,
            curves=self.curves,
        )
