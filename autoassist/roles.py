"""One role each: what ``autoassist broker``, ``assistant`` and ``boss`` do. The launcher runs the very same."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from assistant.worker import AssistantSettings
from broker.loop import BrokerSettings
from protocol.client import ConnectSettings
from protocol.settings import RunSettings
from protocol.signals import StopSignal

log = logging.getLogger("autoassist")

T = TypeVar("T")
Flat = Annotated[T, tyro.conf.OmitArgPrefixes]
WorkloadName = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="WORKLOAD", help="Built-in name, package.module:Class or file.py:Class."),
]


@dataclass(frozen=True, kw_only=True)
class WorkloadSettings:
    """Which model and where the data is."""

    model: str = ""
    """Boss model: cnn (default) or resnet20, resnet32, … for the built-in image workloads."""

    data_dir: Path | None = None
    """Directory that holds the data set's files; looked at before the cache and the mirrors."""


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is said on the terminal."""

    debug: bool = False
    """Log everything, and show tracebacks."""


@dataclass(frozen=True, kw_only=True)
class BrokerCommand:
    """The batch broker: owns the epoch order, the leases, the stock, and the run store."""

    broker: Flat[BrokerSettings]
    log: Flat[LogSettings] = LogSettings()
    announce: bool = False
    """Write one line with the addresses to standard output once they are bound."""

    def execute(self) -> int:
        """Serve until the run is over."""
        from broker.loop import Broker

        with StopSignal() as stop:
            broker = Broker(self.broker)
            log.info("listening on %s, statistics on %s", broker.address, broker.statistics_address)
            if self.announce:
                line = {"address": broker.address, "statistics": broker.statistics_address}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
            ended = broker.run(stop)
        log.info("the run is over: %s", ended)
        return 1 if ended == "failed" else 0


@dataclass(frozen=True, kw_only=True)
class AssistantCommand:
    """An Assistant: scores windows, learns from the Boss's losses."""

    workload: WorkloadName
    assistant: Flat[AssistantSettings] = AssistantSettings()
    connect: Flat[ConnectSettings] = ConnectSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Serve until the broker says Stop."""
        from assistant.worker import Assistant
        from workloads import load_workload

        with StopSignal() as stop:
            workload = load_workload(self.workload, model=self.data.model, data_dir=self.data.data_dir)
            fingerprint = workload.fingerprint()
            assistant = Assistant(
                self.assistant,
                self.connect,
                dataset_id=fingerprint.dataset_id,
                n=fingerprint.n,
                features=workload.features(),
                labels=workload.labels(),
            )
            ended = assistant.run(stop)
        log.info("leaving: the run is %s", ended)
        return 0


def execute_boss(
    workload_name: str,
    run: RunSettings,
    *,
    connect: ConnectSettings,
    train_settings: object,
    data: WorkloadSettings,
    checkpoints: object,
    local: object,
) -> int:
    """Train; returns the exit code."""
    from boss.checkpoint import CheckpointDir, CheckpointSettings, Saver, save_weights
    from boss.feed import Feed
    from boss.line import LocalSettings
    from boss.train import TrainSettings, train
    from workloads import load_workload, validate_workload

    assert isinstance(train_settings, TrainSettings) and isinstance(checkpoints, CheckpointSettings)
    assert isinstance(local, LocalSettings)
    saver, state = None, None
    if checkpoints.checkpoint_dir is not None:
        directory = CheckpointDir(checkpoints.checkpoint_dir, checkpoints.checkpoint_keep)
        saver = Saver(directory, checkpoints.checkpoint_every) if checkpoints.checkpoint_every else None
        state = directory.newest() if checkpoints.resume else None
    if checkpoints.resume:
        log.info("resuming from %s", f"the checkpoint of step {state.step}" if state else "the beginning")
    with StopSignal() as stop:
        train_settings.resolved_device()
        workload = load_workload(workload_name, model=data.model, data_dir=data.data_dir)
        validate_workload(workload)
        fingerprint = workload.fingerprint()
        with Feed.connect(
            connect.broker,
            n=fingerprint.n,
            dataset_id=fingerprint.dataset_id,
            connect_timeout_s=connect.connect_timeout_s,
            settings=run,
            local=local,
            state=(state.run if state is not None else {}) if checkpoints.resume else None,
        ) as feed:
            boss = train(workload, feed, train_settings, stop=stop, saver=saver, state=state)
            ended = feed.ended
            if checkpoints.save is not None:
                save_weights(boss, checkpoints.save)
    if ended == "failed":
        log.error("the broker ended the run as failed")
    return {"finished": 0, "stopped": 0}.get(ended, 1)
