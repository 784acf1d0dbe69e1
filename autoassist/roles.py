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
from protocol.errors import BrokerUnreachable
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
    """An Assistant: scores windows, learns from the Boss's losses.

    WORKLOAD gives it features and labels of the instances. Without one, for a Boss that is a script of your own, it
    learns from their losses alone.
    """

    workload: WorkloadName = ""
    assistant: Flat[AssistantSettings] = AssistantSettings()
    connect: Flat[ConnectSettings] = ConnectSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Serve until the broker says Stop."""
        from assistant.worker import Assistant
        from workloads import CheckedWorkload, load_workload

        with StopSignal() as stop:
            if not self.workload:
                log.info("no WORKLOAD given: instances are known by their losses alone, without features")
                ended = Assistant(self.assistant, self.connect).run(stop)
            else:
                data = self.data
                workload = CheckedWorkload(load_workload(self.workload, model=data.model, data_dir=data.data_dir))
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
    from boss.checkpoint import CheckpointSettings, open_checkpoints, save_weights
    from boss.feed import Feed
    from boss.given import require_one_rank
    from boss.line import LocalSettings
    from boss.train import TrainSettings, train
    from workloads import CheckedWorkload, load_workload, validate_workload

    assert isinstance(train_settings, TrainSettings) and isinstance(checkpoints, CheckpointSettings)
    assert isinstance(local, LocalSettings)
    require_one_rank(run)
    saver, state = open_checkpoints(checkpoints)
    with StopSignal() as stop:
        train_settings.resolved_device()
        workload = CheckedWorkload(load_workload(workload_name, model=data.model, data_dir=data.data_dir))
        validate_workload(workload)
        fingerprint = workload.fingerprint()
        with Feed.connect(
            connect.broker,
            n=fingerprint.n,
            dataset_id=fingerprint.dataset_id,
            connect_timeout_s=connect.connect_timeout_s,
            reconnect_timeout_s=connect.reconnect_timeout_s,
            workload=workload_name if not data.model else f"{workload_name} {data.model}",
            settings=run,
            local=local,
            state=(state.run if state is not None else {}) if checkpoints.resume else None,
        ) as feed:
            boss = train(workload, feed, train_settings, stop=stop, saver=saver, state=state)
        if checkpoints.save is not None:
            save_weights(boss, checkpoints.save)
    if feed.ended == "failed":
        log.error("the broker ended the run as failed")
    elif not feed.close():
        kept = f"; the weights are in {checkpoints.save}" if checkpoints.save is not None else ""
        raise BrokerUnreachable(f"the broker at {connect.broker} did not acknowledge the run's last reports{kept}")
    return {"finished": 0, "stopped": 0}.get(feed.ended, 1)
