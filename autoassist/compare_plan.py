"""The runs of a comparison: which, in what order, and with what settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from autoassist.compare_result import NOT_JUDGED, ORACLE, RANDOM_DROP, UNIFORM
from autoassist.compare_statistics import MOST_DROP_RATE, paired_drop_rate
from autoassist.roles import WorkloadSettings
from autoassist.run_command import RunCommand, as_words
from autoassist.why_whole import unscored_fraction
from boss.train import TrainSettings
from protocol.errors import SettingError
from protocol.report import Report
from protocol.settings import POLICY_NAME, RunSettings

DEFAULT_POLICY = "autoassist"
NOT_TO_SET = ("policy", "epochs", "boss_instances", "seed", "world_size")
"""Settings that the comparison itself decides."""


@dataclass(frozen=True)
class PlannedRun:
    """One run, in the directory ``name``; random-drop's drop rate is not known before its pair has run."""

    command: RunCommand
    budget: float
    name: str
    pair: str = ""
    """Name of the run whose kept rate random-drop takes; "" for all others."""
    most_passes: int = 0
    """Of a run that ends with its epochs, not with a number of passes: as many as without selection."""

    @property
    def settings(self) -> RunSettings:
        """Of the run."""
        return self.command.run

    @property
    def passes(self) -> int:
        """Its Boss passes, or the most that they can be."""
        return self.settings.boss_instances or self.most_passes

    @property
    def words(self) -> str:
        """For the terminal."""
        budget = f"{100 * self.budget:.0f} % of the passes" if self.settings.boss_instances else "all that it keeps"
        return f"{self.settings.policy} with {budget}, seed {self.settings.seed}"

    def paired(self, report: Report) -> PlannedRun:
        """With the drop rate that keeps as many as the run of ``report``; other policies than random-drop unchanged."""
        if not self.pair:
            return self
        kept_fraction, warmup_epochs = report.selection.kept_fraction, self.settings.warmup
        anneal_share, epochs = self.settings.anneal_share, self.settings.epoch_budget
        unscored = unscored_fraction(report)
        if epochs is not None:
            middle = max(1e-9, 1.0 - warmup_epochs / epochs - anneal_share - unscored)
            rate = min(MOST_DROP_RATE, (1.0 - kept_fraction) / middle)
        else:
            rate = paired_drop_rate(
                n=report.n,
                passes=self.passes,
                kept_fraction=kept_fraction,
                warmup_epochs=warmup_epochs,
                anneal_share=anneal_share,
                unscored=unscored,
            )
        run = dataclasses.replace(self.settings, drop_rate=round(rate, 4))
        return dataclasses.replace(self, command=dataclasses.replace(self.command, run=run))

    def arguments(self, run_dir: Path, *, resume: bool) -> list[str]:
        """Command-line words that run it, or go on with it."""
        if resume:
            return ["run", "--resume", str(run_dir), "--no-live"]
        c, default = self.command, RunCommand()
        # The oracle's passes that are not counted are none that a run of the real system could make.
        command = "compare-oracle" if self.settings.policy == ORACLE else "run"
        words = [command, c.workload, *as_words(c.data, WorkloadSettings()), *as_words(c.run, RunSettings())]
        words += as_words(c.train, TrainSettings())
        if c.checkpoint_every != default.checkpoint_every:
            words += ["--checkpoint-every", str(c.checkpoint_every)]
        if c.look_ahead != default.look_ahead:
            words += ["--look-ahead", c.look_ahead]
        return [*words, "--run-dir", str(run_dir), "--no-live"]


def make_plan(
    command: RunCommand,
    *,
    n: int,
    epochs: int,
    policies: Sequence[str],
    budgets: Sequence[float],
    seeds: Sequence[int],
    options: Sequence[str],
    only: Sequence[str] = (),
    one_pass: bool = False,
) -> list[PlannedRun]:
    """All runs, seed by seed, so that an interrupted comparison is balanced; random-drop after its pair.

    ``one_pass``: a policy that selects ends with the epochs, whatever it has kept; more passes would be a second look.

    Raises SettingError for settings that no run can have.
    """
    pair = pair_of(policies)
    chosen = budgets_by_policy(policies, budgets, only, pair)
    ordered = [policy for policy in policies if policy != RANDOM_DROP]
    if RANDOM_DROP in policies:
        ordered.insert(ordered.index(pair) + 1, RANDOM_DROP)
    plan = []
    for seed in seeds:
        for budget in budgets:
            for policy in (policy for policy in ordered if budget in chosen[policy]):
                ends_with_epochs = one_pass and policy not in (UNIFORM, ORACLE)
                passes = {"boss_instances": max(1, round(budget * epochs * n))}
                length = {"epochs": epochs} if ends_with_epochs else passes
                run = settings_of(policy, options, {"policy": policy, "seed": seed, **length})
                if policy == RANDOM_DROP:
                    run = _whole_where(
                        run, settings_of(pair, options, {"policy": pair, "seed": seed, **length}), options
                    )
                plan.append(
                    PlannedRun(
                        command=dataclasses.replace(command, run=run),
                        budget=budget,
                        name=run_name(policy, budget, seed),
                        pair=run_name(pair, budget, seed) if policy == RANDOM_DROP else "",
                        most_passes=epochs * n,
                    )
                )
    return plan


def _whole_where(run: RunSettings, pair: RunSettings, options: Sequence[str]) -> RunSettings:
    """random-drop's settings with the warm-up and the anneal of its pair, but for what it is given itself: dropped
    elsewhere in the training, as many passes would be worth more or less."""
    given = {split_option(option)[:2] for option in options}
    changes: dict[str, Any] = {}
    if pair.warmup != run.warmup and (RANDOM_DROP, "warmup_epochs") not in given:
        changes["warmup_epochs"] = pair.warmup
    if pair.anneal_share != run.anneal_share and (RANDOM_DROP, "anneal_share") not in given:
        changes["anneal_share"] = pair.anneal_share
    return dataclasses.replace(run, **changes) if changes else run


def pair_of(policies: Sequence[str]) -> str:
    """The policy whose kept rate random-drop takes: the default where it takes part, else the first that selects."""
    selecting = [policy for policy in policies if policy not in NOT_JUDGED]
    if RANDOM_DROP in policies and not selecting:
        raise SettingError(
            f"policies={' '.join(policies)}: {RANDOM_DROP} takes its rate from a policy that selects; add one, "
            f"for example {DEFAULT_POLICY}"
        )
    return DEFAULT_POLICY if DEFAULT_POLICY in selecting else next(iter(selecting), UNIFORM)


def budgets_by_policy(
    policies: Sequence[str], budgets: Sequence[float], only: Sequence[str], pair: str
) -> dict[str, tuple[float, ...]]:
    """The budgets of each policy: all of them, but for those that ``POLICY=BUDGET[,BUDGET …]`` gives fewer."""
    chosen = dict.fromkeys(policies, tuple(budgets))
    for words in only:
        policy, equals, values = words.partition("=")
        try:
            given = tuple(float(value) for value in values.split(","))
        except ValueError:
            given = ()
        if not equals or not given:
            raise SettingError(f"only {words}: give POLICY=BUDGET, or POLICY=BUDGET,BUDGET")
        if policy not in policies:
            raise SettingError(f"only {words}: {policy} is none of the policies {' '.join(policies)}")
        if policy == UNIFORM:
            raise SettingError(f"only {words}: every saving is measured against {UNIFORM} at all budgets; leave it out")
        if unknown := [value for value in given if value not in budgets]:
            all_of_them = " ".join(f"{budget:g}" for budget in budgets)
            raise SettingError(f"only {words}: {unknown[0]:g} is none of the budgets {all_of_them}; add it there")
        chosen[policy] = given
    if RANDOM_DROP in policies and not set(chosen[RANDOM_DROP]) <= set(chosen[pair]):
        raise SettingError(
            f"only {' '.join(only)}: {RANDOM_DROP} takes its rate from {pair} at the same budget; give it no others "
            f"than {pair} has"
        )
    return chosen


def run_name(policy: str, budget: float, seed: int) -> str:
    """Name of a run's directory."""
    return f"{policy}-{budget:g}-seed{seed}"


def settings_of(policy: str, options: Sequence[str], fixed: Mapping[str, object]) -> RunSettings:
    """Settings of a policy's run: ``NAME=VALUE`` holds for all, ``POLICY:NAME=VALUE`` for one and before the former."""
    values: dict[str, object] = {}
    for is_own in (False, True):
        for option in options:
            owner, name, value = split_option(option)
            if bool(owner) == is_own and owner in ("", policy):
                values[name] = value
    try:
        return msgspec.convert({**values, **fixed}, RunSettings, strict=False)
    except SettingError as error:
        raise SettingError(f"{error} (in a comparison: --set {policy}:NAME=VALUE)") from None
    except msgspec.ValidationError as error:
        raise SettingError(f"set {' '.join(options)}: {error}; see autoassist run --help for the settings") from None


def split_option(option: str) -> tuple[str, str, str]:
    """(policy or "", name, value); raises SettingError where it is none, or not to be set."""
    left, equals, value = option.partition("=")
    owner, _, name = left.rpartition(":")
    name = name.replace("-", "_")
    if not equals or not name or (owner and not POLICY_NAME.fullmatch(owner)):
        raise SettingError(f"set {option}: give NAME=VALUE, or POLICY:NAME=VALUE for one policy alone")
    if name in NOT_TO_SET:
        raise SettingError(f"set {option}: the comparison decides {name} itself; leave it out")
    known = [field.name for field in dataclasses.fields(RunSettings) if field.name not in NOT_TO_SET]
    if name not in known:
        raise SettingError(f"set {option}: no setting {name}; one of {', '.join(known)}")
    return owner, name, value
