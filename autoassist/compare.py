"""``autoassist compare``: every policy through the real system, and whether selection pays for this workload."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assistant.policies import require_policy
from autoassist.compare_found import Common, finished_before
from autoassist.compare_plan import DEFAULT_POLICY, PlannedRun, make_plan, split_option
from autoassist.compare_plot import can_plot, plot
from autoassist.compare_progress import ProgressView
from autoassist.compare_result import (
    ORACLE,
    UNIFORM,
    Comparison,
    RunResult,
    make_cells,
    name_of,
    uniform_gain,
    write_comparison,
)
from autoassist.compare_runs import Runner, locked
from autoassist.compare_table import print_comparison
from autoassist.compare_verdict import judge, reference_budget
from autoassist.metric_command import Direction, asked, evaluated
from autoassist.notices import Notices
from autoassist.remembered import DEFAULT_CHECKPOINT_EVERY, LookAheadChoice, code_of
from autoassist.roles import Flat, LogSettings, WorkloadName, WorkloadSettings
from autoassist.run_command import RunCommand
from boss.train import TrainSettings
from protocol.settings import DEFAULT_EPOCHS, require
from protocol.signals import StopSignal
from workloads import CheckedWorkload, Fingerprint, Workload, validate_workload
from workloads.sources import asked_already

log = logging.getLogger("autoassist.compare")

MOST_SEEDS = 1000
ONE_PASS_WARMUP = 0.1
"""Share of the only epoch that passes whole, so that the predictor has something to learn from."""


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Train a workload with several policies and budgets, seed by seed, and say whether selection pays here.

    A budget b stops a run after b times the Boss passes of the full training, with its learning rate fully decayed.
    Interrupted, the same command goes on where it was.
    """

    workload: WorkloadName = ""
    policies: tuple[str, ...] = (UNIFORM, "random-drop", "autoassist")
    """Policies to compare; all are measured against uniform. random-drop keeps as many as autoassist does, or, without
    that, as the first policy that selects. oracle, for a comparison only, selects by fresh losses whose forward passes
    are not counted: the bound of the default's rule, not of all."""
    budgets: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4)
    """Shares of the full training's Boss passes; 1.0 among them."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="POLICY=BUDGET[,BUDGET …] …")] = ()
    """Fewer budgets for one policy: infobatch=0.6 rho=0.6,0.4."""
    seeds: int = 3
    """How many seeds each policy runs with, the same for all; one alone cannot tell."""
    first_seed: int = 1
    """The first of them; the others follow it."""
    epochs: int = DEFAULT_EPOCHS
    """Epochs of the full training."""
    one_pass: bool = False
    """Data seen once, as a stream is: a single epoch, of which a tenth is the warm-up. No instance has a history then,
    and only a learned predictor can select."""
    out: Path | None = None
    """Directory for the runs, compare.json and compare.png; runs/compare-WORKLOAD if not given."""
    options: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="[POLICY:]NAME=VALUE …")] = ()
    """Settings of `autoassist run` for all runs, or those of one policy: batch_size=128 autoassist:noise_guard=auto."""
    train: Flat[TrainSettings] = TrainSettings()
    data: Flat[WorkloadSettings] = WorkloadSettings()
    log: Flat[LogSettings] = LogSettings()
    checkpoint_every: int = DEFAULT_CHECKPOINT_EVERY
    """Steps between two checkpoints of each run, from which an interrupted one goes on; 0 for none."""
    look_ahead: LookAheadChoice = "auto"
    """As that of `autoassist run`, for the runs of the policy autoassist."""

    def execute(self) -> int:
        """Run what is missing, and sum up; returns the exit code."""
        return self._with_one_pass()._execute() if self.one_pass else self._execute()

    def _with_one_pass(self) -> CompareCommand:
        given = self.epochs in (1, DEFAULT_EPOCHS)
        require(given, "epochs", self.epochs, "contradicts --one-pass, which is a single epoch; leave one of them out")
        below = [budget for budget in self.budgets if budget < 1.0]
        require(bool(below), "budgets", _words(self.budgets), "add one below 1.0, for uniform's curve")
        judged = reference_budget(below)
        only = tuple(f"{policy}={judged:g}" for policy in self.policies if policy != UNIFORM)
        require(not self.only, "only", _words(self.only), "means nothing with --one-pass; leave it out")
        options = (f"warmup_epochs={ONE_PASS_WARMUP}", *self.options)
        return dataclasses.replace(self, epochs=1, only=only, options=options)

    def _execute(self) -> int:
        self._require_possible()
        code = code_of(self.workload)
        workload = CheckedWorkload(self.data.load(self.workload))
        validate_workload(workload)
        fingerprint = workload.fingerprint()
        plan = self._plan(fingerprint.n)
        _require_runnable(plan, workload)
        out = self._out_dir()
        finished_before(plan, out, Common(fingerprint.dataset_id, code=code))  # refuses before anything is evaluated
        found = asked_already(workload.fall_back)
        metric = self._metric(workload, found)
        common = Common(fingerprint.dataset_id, metric.name, code)
        finished = finished_before(plan, out, common)
        log.info("%d of %d runs are finished in %s", len(finished), len(plan), out)
        with Notices() as notices, StopSignal() as stop, locked(out):
            enabled = sys.stdout.isatty() and not self.log.debug
            with ProgressView(plan, enabled=enabled, finished=finished) as view:
                runner = Runner(
                    *(plan, out, common),
                    finished=finished,
                    stop=stop,
                    notices=notices,
                    view=view,
                    debug=self.log.debug,
                    environment=found,
                )
                is_complete = runner.execute()
            if not is_complete:
                log.info("stopped; %s; autoassist %s goes on", runner.kept, shlex.join(sys.argv[1:]))
                return 128 + stop.number
            results = [RunResult.of(runner.reports[r.name], budget=r.budget, run_dir=r.name) for r in plan]
            served = workload.fall_back.served if workload.fall_back is not None else ""
            self._conclude(self._comparison(results, fingerprint, metric, served), out)
        return 0

    def _metric(self, workload: Workload, environment: dict[str, str]) -> Direction:
        """Name and direction of the metric, from a fresh Boss: reports do not say which direction is better.

        Costs one evaluation, and shows an evaluate() that does not work before anything is trained.
        """
        device = self.train.resolved_device()
        if device.type != "cpu":
            return asked(self.workload, self.train, self.data, environment)
        metric = evaluated(workload, device)
        return Direction(name=metric.name, higher_is_better=metric.higher_is_better)

    def _require_possible(self) -> None:
        """Refuse what can be refused without the data."""
        require(bool(self.workload), "workload", self.workload, "is missing; give a WORKLOAD")
        require(self.out is None or str(self.out) != ".", "out", self.out, "give --out a directory of its own")
        for name in ("policies", "budgets"):
            given = getattr(self, name)
            require(len(set(given)) == len(given), name, _words(given), "name each of them once")
        words = _words(self.policies)
        require(UNIFORM in self.policies, "policies", words, f"add {UNIFORM}: savings are measured against it")
        for budget in self.budgets:
            is_share = math.isfinite(budget) and 0.0 < budget <= 1.0
            require(is_share, "budgets", budget, "each must lie in (0, 1], a share of the full training's passes")
        alike = len({f"{budget:g}" for budget in self.budgets}) < len(self.budgets)
        require(not alike, "budgets", _words(self.budgets), "give six digits at most; what differs later is one budget")
        require(1.0 in self.budgets, "budgets", _words(self.budgets), "add 1.0: the full training")
        require(1 <= self.seeds <= MOST_SEEDS, "seeds", self.seeds, f"must lie in 1 … {MOST_SEEDS}; it is their number")
        require(self.first_seed >= 0, "first_seed", self.first_seed, "must not be negative")
        require(self.epochs >= 1, "epochs", self.epochs, "must be at least 1")
        require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "must not be negative")
        for option in self.options:
            owner, _, _ = split_option(option)
            require(owner in ("", *self.policies), "set", option, f"{owner} is none of the policies {words}")

    def _plan(self, n: int) -> list[PlannedRun]:
        base = RunCommand(
            workload=self.workload,
            train=self.train,
            data=self.data,
            checkpoint_every=self.checkpoint_every,
            look_ahead=self.look_ahead,
        )
        return make_plan(
            base,
            n=n,
            epochs=self.epochs,
            policies=self.policies,
            budgets=self.budgets,
            seeds=self._seeds,
            options=self.options,
            only=self.only,
            one_pass=self.one_pass,
        )

    @property
    def _seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)

    def _out_dir(self) -> Path:
        """Without a time of day in its name, so that the same command finds it again."""
        parts = [self.workload.rpartition("/")[2], self.data.model, self.data.data.stem if self.data.data else ""]
        parts += ["one-pass"] if self.one_pass else []
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(part for part in parts if part))
        return self.out if self.out is not None else Path("runs") / f"compare-{name}"

    def _comparison(
        self, results: list[RunResult], fingerprint: Fingerprint, metric: Direction, fell_back_to: str
    ) -> Comparison:
        cells = make_cells(results, policies=self.policies, higher_is_better=metric.higher_is_better)
        gain = uniform_gain(results, higher_is_better=metric.higher_is_better)
        name = name_of(self.workload, "", fell_back_to)
        return Comparison(
            workload=self.workload,
            model=self.data.model,
            fell_back_to=fell_back_to,
            metric_name=metric.name,
            higher_is_better=metric.higher_is_better,
            n=fingerprint.n,
            epochs=self.epochs,
            policies=list(self.policies),
            budgets=sorted(self.budgets, reverse=True),
            seeds=list(self._seeds),
            options=list(self.options),
            only=list(self.only),
            runs=results,
            cells=cells,
            uniform_gain=gain,
            verdict=judge(cells, gain, workload=name, metric_name=metric.name, seeds=self.seeds),
        )

    def _conclude(self, comparison: Comparison, out: Path) -> None:
        print_comparison(comparison)
        print(f"table: {write_comparison(comparison, out)}")
        if can_plot():
            print(f"plot:  {plot(comparison, out)}")
        else:
            print("plot:  none, matplotlib is missing; pip install 'autoassist[plot]' and give the same command again")


def _require_runnable(plan: Sequence[PlannedRun], workload: Workload) -> None:
    """Refuse here, before anything is run, what one of the runs would refuse."""
    n, labels = workload.fingerprint().n, workload.labels()
    for run in plan:
        size = run.settings.step_instances
        require(size <= n, "batch_size", size, f"exceeds the data set's {n} instances; lower --set batch_size")
        least = f"fewer than a step's {size}; raise the budget, or --epochs"
        require(run.passes >= size, "budgets", f"{run.budget:g}: {run.passes} passes", least)
        # The oracle is no run's policy, but has the options that all share.
        is_oracle = run.settings.policy == ORACLE
        tokens = run.settings.max_tokens
        require(not is_oracle or tokens is None, "max_tokens", tokens, "the oracle cuts by instances; leave it out")
        shared = dataclasses.replace(run.settings, policy=DEFAULT_POLICY) if is_oracle else run.settings
        require_policy(shared, n, labels)


def _words(values: Sequence[object]) -> str:
    return " ".join(str(value) for value in values)
