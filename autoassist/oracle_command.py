"""``autoassist compare-oracle``: one run of the oracle, as ``compare`` starts it; its report is like any run's."""

from __future__ import annotations

import platform
import signal
import uuid
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from assistant.policies.registry import COMPARE_ONLY
from autoassist.oracle import Oracle, Trained
from autoassist.remembered import Remembered
from autoassist.roles import workload_title
from autoassist.run_command import RunCommand
from autoassist.run_directory import RunDirectory, require_unused
from protocol.errors import SettingError
from protocol.report import (
    REPORT_FILE,
    BossReport,
    LossReportsReport,
    MetricReport,
    Report,
    SelectionReport,
    StalenessReport,
    encode_report,
)
from protocol.settings import require
from protocol.signals import StopSignal
from workloads import CheckedWorkload, Workload, validate_workload


@dataclass(frozen=True, kw_only=True)
class OracleCommand(RunCommand):
    """The upper bound of a comparison: train here, in one process, by losses that are fresh and cost nothing.

    Takes what `autoassist run` takes; --policy oracle. It has no checkpoints: interrupted, it begins again.
    """

    def execute(self) -> int:
        """Train to the end and write the report; returns the exit code."""
        require(self.run.policy == COMPARE_ONLY, "policy", self.run.policy, f"give --policy {COMPARE_ONLY}")
        require(bool(self.workload), "workload", self.workload, "is missing; give a WORKLOAD")
        if not self.run_dir:
            raise SettingError(f"run_dir={self.run_dir}: is missing; give --run-dir a directory of its own")
        run_dir = Path(self.run_dir)
        require_unused(run_dir)
        ranks = self.run.world_size
        require(ranks == 1, "world_size", ranks, "the oracle trains in one process; leave it at 1")
        tokens = self.run.max_tokens
        require(tokens is None, "max_tokens", tokens, "the oracle cuts by the number of instances; leave it out")
        train = self._shared_train_settings()
        if train.threads:
            torch.set_num_threads(train.threads)
        workload = CheckedWorkload(self.data.load(self.workload))
        validate_workload(workload)
        with StopSignal() as stop:
            RunDirectory(run_dir, Remembered.of(self))
            found = Oracle(workload, self.run, train).run(stop)
            if found.metric is None:
                return 128 + (stop.number or signal.SIGTERM)
        part = run_dir / f"{REPORT_FILE}.part"
        part.write_bytes(encode_report(self._report(found, workload)))
        part.replace(run_dir / REPORT_FILE)
        return 0

    def _report(self, found: Trained, workload: Workload) -> Report:
        fingerprint, settings = workload.fingerprint(), self.run
        return Report(
            status="finished",
            run_id=uuid.uuid4().hex,
            workload=workload_title(self.workload, self.data.model, workload.fall_back),
            policy=settings.policy,
            seed=settings.seed,
            epochs=settings.epoch_budget or 0,
            boss_instances_budget=settings.boss_instances or 0,
            world_size=1,
            dataset_id=fingerprint.dataset_id,
            n=fingerprint.n,
            settings=settings.as_dict(),
            boss=_boss(found),
            selection=SelectionReport(
                offered=found.offered,
                kept=found.kept,
                kept_fraction=found.kept / found.offered,
                unfiltered_fraction=0.0,
                staleness_steps=StalenessReport(p50=None, p99=None, max=None, bound=settings.staleness_bound),
                epochs=[],
                unfiltered_windows={},
                reopened_windows=0,
            ),
            loss_reports=LossReportsReport(sent=0, delivered=0, values_dropped=0, values_not_finite=0),
            metric=_metric(found),
            assistants=[],
            refused_input={},
            versions={"python": platform.python_version(), "torch": metadata.version("torch")},
        )


def _boss(found: Trained) -> BossReport:
    """Its clocks leave out the forward passes that select, as they leave out evaluation."""
    wall_s = found.clocks.wall_s
    return BossReport(
        steps=found.steps,
        instances=found.instances,
        wall_s=wall_s,
        train_s=wall_s,
        exposed_wait_s=0.0,
        exposed_wait_fraction=0.0,
        startup_wait_s=0.0,
        evaluation_s=found.clocks.evaluation_s,
        off_plan_steps=0,
        off_plan_instances=0,
        report_us_p50=0.0,
        report_us_p99=0.0,
        gradients_dropped=found.gradients_dropped,
    )


def _metric(found: Trained) -> MetricReport:
    assert found.metric is not None
    name, value = found.metric.name, found.metric.value
    return MetricReport(name=name, value=value, history=[(0, found.instances, found.clocks.wall_s, value)])
