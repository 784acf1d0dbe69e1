"""One role each: what ``autoassist broker`` and ``assistant`` do; ``boss`` is apart. The launcher runs the same."""

from __future__ import annotations

import gc
import json
import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import tyro
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from assistant.look_ahead import LookAhead
from assistant.watch import statistics_of
from assistant.worker import Assistant, AssistantSettings
from autoassist.curves import CurveSettings, drawing, of_assistant
from autoassist.exporting import exporting
from autoassist.local_arrays import require_classes
from autoassist.notices import LogLevel
from broker.monitor import monitoring
from broker.rows import RunRow
from broker.settings import BrokerSettings
from broker.story import Story
from protocol.client import ConnectSettings
from protocol.errors import DataError
from protocol.exporter import ExporterSettings
from protocol.finite import rows_not_finite
from protocol.logs import joined, speak_as
from protocol.processes import take_all_descriptors
from protocol.role_metrics import ASSISTANT_METRICS
from protocol.settings import require
from protocol.signals import StopSignal

if TYPE_CHECKING:
    from workloads import Workload  # imports torch, which a broker does without
    from workloads.base import FallBack

log = logging.getLogger("autoassist")

MOST_TITLE = 200
"""Characters that the protocol has for a name; of a longer path the end tells more."""

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
    """Boss model: cnn (default) or resnet20, resnet32, … for the built-in image workloads; mlp-128-64 for table; tiny
    (default), small or base for translation and lm."""

    data_dir: Path | None = None
    """Directory that holds the data set's files; looked at before the cache and the mirrors."""

    data: Path | None = None
    """File of the workload table: CSV with a header, or Parquet; sentence pairs for translation: TSV, or a directory of
    gettext catalogues; text for lm: a file, or a directory of them."""

    label: str = ""
    """Column of the table that is learned."""

    validation: bool = False
    """Image workloads: hold a sixth of the training part out, and evaluate on it instead of the test part. Translation
    and lm, where a part is held out always: evaluate on that."""

    token_share: float = 1.0
    """Workload lm: train on this share of a block's tokens, those that lose most beyond the reference's losses."""

    reference: Path | None = None
    """Workload lm, with a token_share: directory of a finished run of lm, whose model is the reference."""

    def load(self, workload: str) -> Workload:
        """The workload of this name, with these settings; see `workloads.load_workload` for the errors."""
        from workloads import load_workload

        return load_workload(
            workload,
            model=self.model,
            data_dir=self.data_dir,
            data=self.data,
            label=self.label,
            validation=self.validation,
            token_share=self.token_share,
            reference=self.reference,
        )


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is said on the terminal."""

    debug: bool = False
    """Log everything, and show tracebacks."""

    log_level: LogLevel = "info"
    """Say what is of this level, or worse."""

    log_json: bool = False
    """Log as JSON, an object a line, each with run, role, peer and step; docs/LOGS.md."""


@dataclass(frozen=True, kw_only=True)
class BrokerCommand:
    """The batch broker: owns the epoch order, the leases, the stock, and the run store."""

    broker: Flat[BrokerSettings]
    monitor: Flat[ExporterSettings] = ExporterSettings()
    log: Flat[LogSettings] = LogSettings()
    announce: bool = False
    """Write one line with the addresses to standard output once they are bound."""

    def execute(self) -> int:
        """Serve until the run is over."""
        from broker.loop import Broker

        take_all_descriptors()
        with StopSignal() as stop, monitoring(self.monitor) as monitor:
            story = Story(log, monitor)
            broker = Broker(self.broker, monitor=story)
            story.goes_on = broker.core.state.run is not None
            speak_as("broker", "broker", lambda: trained_through(broker.core.state.run))
            joined(broker.core.run_id)
            log.info("listening on %s, statistics on %s", broker.address, broker.statistics_address)
            line = {"address": broker.address, "statistics": broker.statistics_address, "run": broker.core.run_id}
            if monitor is not None:
                log.info("metrics on %s/metrics", monitor.address)
                line["http"] = monitor.address
            if self.announce:
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
            gc.freeze()  # what start-up has made stays; looking through it again and again would hold the loop up
            ended = broker.run(stop)
        log.info("the run is over: %s", ended)
        return 1 if ended == "failed" else 0


def trained_through(run: RunRow | None) -> int | None:
    """The last step that all ranks have reported; None before the first."""
    return run.log_step - 1 if run is not None and run.log_step else None


@dataclass(frozen=True, kw_only=True)
class AssistantCommand:
    """An Assistant: scores windows, learns from the Boss's losses.

    WORKLOAD gives it features and labels of the instances. Without one, for a Boss that is a script of your own, it
    takes them from files, or learns from the losses alone.
    """

    workload: WorkloadName = ""
    features: Path | None = None
    """Without a WORKLOAD: features of the instances by ID, an .npy file of shape (n, d), float32."""
    labels: Path | None = None
    """Without a WORKLOAD: labels of the instances by ID, an .npy file of shape (n,), int64."""
    assistant: Flat[AssistantSettings] = AssistantSettings()
    connect: Flat[ConnectSettings] = ConnectSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    monitor: Flat[ExporterSettings] = ExporterSettings()
    curves: Flat[CurveSettings] = CurveSettings()
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Serve until the broker says Stop."""
        name = self.assistant.name
        speak_as("assistant", name)
        with StopSignal() as stop:
            assistant = self._of_workload() if self.workload else self._of_files()
            speak_as("assistant", name, lambda: assistant.core.learned_through if assistant.core is not None else None)
            look, turned_at = partial(statistics_of, assistant), lambda: assistant.client.polled_at
            with (
                exporting(self.monitor, "Assistant", ASSISTANT_METRICS, look, turned_at),
                drawing(self.curves, name, look, of_assistant),
            ):
                ended = assistant.run(stop)
        log.info("leaving: the run is %s", ended)
        return 0

    def _of_workload(self) -> Assistant:
        given = next((name for name in ("features", "labels") if getattr(self, name) is not None), "")
        require(not given, given, getattr(self, given, None), "is the WORKLOAD's to say; leave one of the two out")
        load = partial(checked_workload, self.data, self.workload)
        workload = load()
        fingerprint, snapshots = workload.fingerprint(), self.assistant.snapshots
        return Assistant(
            self.assistant,
            self.connect,
            dataset_id=fingerprint.dataset_id,
            n=fingerprint.n,
            features=workload.features(),
            labels=workload.labels(),
            show=workload.preview,
            look_ahead=LookAhead(load, snapshots, fingerprint.dataset_id) if snapshots is not None else None,
        )

    def _of_files(self) -> Assistant:
        path = self.assistant.snapshots
        require(path is None, "snapshots", path, "needs a WORKLOAD, which says how the Boss's network is run; name it")
        features = read_array(self.features, np.dtype(np.float32), 2) if self.features is not None else None
        labels = read_array(self.labels, np.dtype(np.int64), 1) if self.labels is not None else None
        if labels is not None:
            require_classes(labels, str(self.labels))
        if features is None and labels is None:
            log.info("no WORKLOAD given: instances are known by their losses alone, without features")
        return Assistant(self.assistant, self.connect, features=features, labels=labels)


def checked_workload(data: WorkloadSettings, name: str) -> Workload:
    """The workload; in this process, or in another one that is given this function."""
    from workloads import CheckedWorkload

    return CheckedWorkload(data.load(name))


def read_array(path: Path, dtype: np.dtype[Any], dimensions: int) -> NDArray[Any]:
    """An .npy file, mapped into memory; raises DataError where it is none of this dtype and shape, or not finite."""
    try:
        array: NDArray[Any] = open_memmap(path, mode="r")  # numpy.load would take an .npz, an archive, too
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; give an .npy file, as numpy.save writes it") from None
    if array.dtype != dtype or array.ndim != dimensions:
        expected = f"{dtype} with {dimensions} dimension{'s' if dimensions > 1 else ''}"
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}; give {expected}, a row for each instance")
    bad, first = rows_not_finite(array)
    if bad:
        raise DataError(
            f"{path}: {bad} of {len(array)} rows hold NaN or infinity, the first of instance {first}; "
            "fill them in, or leave the column out"
        )
    return array


def workload_title(name: str, model: str, fall_back: FallBack | None) -> str:
    """What the report calls the workload: nobody shall take a small set's figures for those of the set he asked for."""
    title = f"{name} {model}" if model else name
    if fall_back is not None:
        title += f" (fell back to {fall_back.served})"
    return title[-MOST_TITLE:]
