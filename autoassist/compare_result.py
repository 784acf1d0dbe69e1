"""``compare.json``: every run of a comparison, what follows from them by policy and budget, and the verdict.

``schema()`` gives its JSON Schema, docs/COMPARE.md tells the fields. Fields are only ever added.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from autoassist.compare_statistics import Curve, Interval, height, mean_sd, paired_difference, saving
from autoassist.why_whole import unscored_fraction
from protocol.errors import DataError, StoreError
from protocol.report import Report
from protocol.settings import RunSettings

RESULT_FILE = "compare.json"
UNIFORM = "uniform"
RANDOM_DROP = "random-drop"
ORACLE = "oracle"
LEAST_SAVING = 0.05
"""What is less than this is not worth a selection."""
CONTROLS = (UNIFORM, RANDOM_DROP)
"""Policies that do not select: what all others are measured against."""
NOT_JUDGED = (*CONTROLS, ORACLE)
"""Those, and the upper bound, which nobody can have."""


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run, from its report."""

    policy: str
    budget: float  # share of the full training's passes
    seed: int
    run_dir: str
    metric: float
    passes: int  # Boss passes
    wall_s: float  # the Boss's, evaluation excluded
    exposed_wait_s: float
    exposed_wait_fraction: float  # of wall_s
    kept_fraction: float  # of the offered
    room: float  # share of the passes between warm-up and anneal, where a policy may select
    unscored_fraction: float = 0.0  # of the offered: passed whole as no Assistant had scored it in time
    drop_rate: float | None = None  # random-drop: the rate that pairs it

    @classmethod
    def of(cls, report: Report, *, budget: float, run_dir: str) -> RunResult:
        """Raises DataError where the report has no metric to compare."""
        metric = report.metric.value
        if metric is None or not math.isfinite(metric):
            name = report.metric.name or "metric"
            raise DataError(
                f"{run_dir}: {name} is not finite at the end of a finished run: nothing to compare; mend the "
                f"workload's evaluate(), or the training that diverged"
            )
        return cls(
            policy=report.policy,
            budget=budget,
            seed=report.seed,
            run_dir=run_dir,
            metric=metric,
            passes=report.boss.instances,
            wall_s=report.boss.wall_s,
            exposed_wait_s=report.boss.exposed_wait_s,
            exposed_wait_fraction=report.boss.exposed_wait_fraction,
            kept_fraction=report.selection.kept_fraction,
            room=_room(report),
            unscored_fraction=unscored_fraction(report),
            drop_rate=report.settings.get("drop_rate") if report.policy == RANDOM_DROP else None,
        )


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    """1 - cost / cost that uniform would need for the same metric; null where uniform's curve never crosses."""

    value: float | None
    low: float | None  # of the 95 % bootstrap interval; null: no crossing in that tail, or one seed
    high: float | None
    has_interval: bool  # false with one seed
    at_least: bool  # the metric is above all that uniform reaches: value is a lower bound

    @classmethod
    def of(cls, interval: Interval, at_least: bool) -> Saving:
        """From what was computed, -inf as null."""
        return cls(
            value=_finite(interval.value),
            low=_finite(interval.low),
            high=_finite(interval.high),
            has_interval=interval.low is not None,
            at_least=at_least,
        )

    @property
    def is_positive(self) -> bool:
        """Whether all of the interval lies above 0."""
        return self.low is not None and self.low > 0.0

    @property
    def is_negative(self) -> bool:
        """Whether all of the interval lies below 0; 'none' does."""
        return self.has_interval and (self.high is None or self.high < 0.0)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Of two metrics, seed by seed, positive where the first is better; 95 % t interval."""

    value: float
    low: float | None  # null with one seed
    high: float | None

    @classmethod
    def between(cls, ours: list[RunResult], theirs: list[RunResult], sign: float) -> Difference:
        """Of the same seeds in the same order."""
        found = paired_difference(sign * _column(ours, "metric"), sign * _column(theirs, "metric"))
        return cls(value=found.value, low=found.low, high=found.high)

    @property
    def reach(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2.0

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one budget, over its seeds; sd is null with one seed."""

    policy: str
    budget: float
    metric: float
    metric_sd: float | None
    passes: float
    wall_s: float
    wall_s_sd: float | None
    exposed_wait_s: float
    exposed_wait_fraction: float  # of the wall time
    kept_fraction: float
    room: float  # share of the passes between warm-up and anneal
    overhead: float  # wall time of one pass, relative to uniform's at this budget, less 1
    saving: Saving | None  # of Boss passes; null for uniform itself, and where all its runs end at one metric
    wall_saving: Saving | None
    against_uniform: Difference | None  # at the same budget; null for uniform itself
    worth: (
        float  # what uniform gains, from this budget on, by 1/19 more passes: the gain that a saving of 5 % would show
    )
    against_random_drop: Difference | None  # at the same budget; null where that did not run, and for the controls
    unscored_fraction: float = 0.0  # of the offered: passed whole as no Assistant had scored it in time
    share_of_oracle: float | None = None  # saving / the oracle's at this budget; null without one, or where it has none


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What follows for this workload."""

    outcome: str  # pays, does-not-pay, worse-than-random-drop, cannot-tell
    policy: str  # that the sentence begins with; "" where none selects
    budget: float | None  # at which policies are judged: the one below 1 that is nearest to 0.6
    by_policy: dict[str, str]  # outcome of each policy that selects
    sentence: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    schema_version: int = 1
    workload: str
    model: str
    fell_back_to: str = ""  # the small set that stood in for the data asked for, which could not be fetched
    metric_name: str
    higher_is_better: bool
    n: int  # training instances
    epochs: int  # of the full training
    policies: list[str]
    budgets: list[float]
    seeds: list[int]
    options: list[str]  # NAME=VALUE and POLICY:NAME=VALUE, as given by --set
    only: list[str] = []  # POLICY=BUDGET,BUDGET, as given by --only
    runs: list[RunResult]
    cells: list[Cell]
    uniform_gain: Difference  # uniform's metric with the full training less that with its least budget, seed by seed
    verdict: Verdict

    @property
    def title(self) -> str:
        """What was trained; see ``name_of``."""
        return name_of(self.workload, self.model, self.fell_back_to)

    @property
    def full_passes(self) -> int:
        """Boss passes of the full training."""
        return self.epochs * self.n

    def cell(self, policy: str, budget: float) -> Cell | None:
        """Of this policy at this budget."""
        return next((c for c in self.cells if (c.policy, c.budget) == (policy, budget)), None)


def name_of(workload: str, model: str, fell_back_to: str) -> str:
    """What was trained, for people: nobody shall take a small set's figures for those of the set asked for."""
    name = workload.rpartition("/")[2] + (f" {model}" if model else "")
    return f"{name} (fell back to {fell_back_to})" if fell_back_to else name


def make_cells(runs: Sequence[RunResult], *, policies: Sequence[str], higher_is_better: bool) -> list[Cell]:
    """A cell for each policy and budget, budgets falling; the runs of all cells have the same seeds."""
    grouped: dict[tuple[str, float], list[RunResult]] = {}
    for run in sorted(runs, key=lambda r: (-r.budget, r.seed)):
        grouped.setdefault((run.policy, run.budget), []).append(run)
    uniform = [grouped[key] for key in reversed(grouped) if key[0] == UNIFORM]
    cells = [
        _cell(found, uniform, grouped, 1.0 if higher_is_better else -1.0)
        for policy in policies
        for key, found in grouped.items()
        if key[0] == policy
    ]
    oracle = {cell.budget: cell.saving for cell in cells if cell.policy == ORACLE}
    return [msgspec.structs.replace(cell, share_of_oracle=_share(cell, oracle.get(cell.budget))) for cell in cells]


def _share(cell: Cell, oracle: Saving | None) -> float | None:
    """Of the oracle's saving; there is no share of none."""
    if cell.policy == ORACLE or cell.saving is None or cell.saving.value is None:
        return None
    if oracle is None or oracle.value is None or oracle.value <= 0.0:
        return None
    return cell.saving.value / oracle.value


def uniform_gain(runs: Sequence[RunResult], *, higher_is_better: bool) -> Difference:
    """What uniform gains from its least budget to its greatest."""
    uniform = sorted((run for run in runs if run.policy == UNIFORM), key=lambda r: (r.budget, r.seed))
    seeds = len({run.seed for run in uniform})
    return Difference.between(uniform[-seeds:], uniform[:seeds], 1.0 if higher_is_better else -1.0)


def _cell(
    found: list[RunResult],
    uniform: list[list[RunResult]],
    grouped: dict[tuple[str, float], list[RunResult]],
    sign: float,
) -> Cell:
    policy, budget = found[0].policy, found[0].budget
    metric, metric_sd = mean_sd(_column(found, "metric"))
    wall_s, wall_s_sd = mean_sd(_column(found, "wall_s"))
    passes, waited_s = (float(_column(found, name).mean()) for name in ("passes", "exposed_wait_s"))
    full = grouped[UNIFORM, budget]
    pass_s = float(_column(full, "wall_s").mean()) / float(_column(full, "passes").mean())
    control = grouped.get((RANDOM_DROP, budget))
    return Cell(
        policy=policy,
        budget=budget,
        metric=metric,
        metric_sd=metric_sd,
        passes=passes,
        wall_s=wall_s,
        wall_s_sd=wall_s_sd,
        exposed_wait_s=waited_s,
        exposed_wait_fraction=waited_s / wall_s if wall_s else 0.0,
        kept_fraction=float(_column(found, "kept_fraction").mean()),
        room=float(_column(found, "room").mean()),
        unscored_fraction=float(_column(found, "unscored_fraction").mean()),
        overhead=(wall_s / passes) / pass_s - 1.0 if passes and pass_s else 0.0,
        saving=_saving(found, uniform, "passes", sign) if policy != UNIFORM else None,
        wall_saving=_saving(found, uniform, "wall_s", sign) if policy != UNIFORM else None,
        against_uniform=Difference.between(found, full, sign) if policy != UNIFORM else None,
        worth=_worth(uniform, passes, sign),
        against_random_drop=Difference.between(found, control, sign) if control and policy not in CONTROLS else None,
    )


def _saving(found: list[RunResult], uniform: list[list[RunResult]], cost: str, sign: float) -> Saving | None:
    if len({run.metric for runs in uniform for run in runs}) == 1:
        return None  # a line without a slope reaches its metric everywhere
    curve = Curve(
        costs=np.stack([_column(runs, cost) for runs in uniform]),
        metrics=np.stack([sign * _column(runs, "metric") for runs in uniform]),
    )
    return Saving.of(*saving(curve, _column(found, cost), sign * _column(found, "metric")))


def _worth(uniform: list[list[RunResult]], passes: float, sign: float) -> float:
    costs = [float(_column(runs, "passes").mean()) for runs in uniform]
    metrics = [sign * float(_column(runs, "metric").mean()) for runs in uniform]
    return height(costs, metrics, passes / (1.0 - LEAST_SAVING)) - height(costs, metrics, passes)


def _room(report: Report) -> float:
    settings = RunSettings(**report.settings)
    warmup = settings.warmup * report.n / max(1, report.boss.instances)
    return max(0.0, 1.0 - settings.anneal_share - warmup)


def _column(runs: list[RunResult], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([getattr(run, name) for run in runs], dtype=np.float64)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def schema() -> dict[str, Any]:
    """JSON Schema of the file."""
    return msgspec.json.schema(Comparison)


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Indented JSON, written atomically; returns its path. Raises StoreError where it cannot be written."""
    content = msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n"
    return put(folder / RESULT_FILE, lambda part: part.write_bytes(content))


def put(path: Path, write: Callable[[Path], object]) -> Path:
    """Have a file written beside ``path`` and put in its place; raises StoreError where it cannot be."""
    part = path.with_name(f"{path.name}.part")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "let it be written there"
        raise StoreError(f"{path}: {error.strerror or error}; {remedy}, and give the same command again") from None
    return path


def read_comparison(folder: Path) -> Comparison:
    """Read and validate; raises DataError where the file is missing or is no comparison."""
    path = folder / RESULT_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Comparison)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the --out of a finished comparison") from None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: {error}; it is no comparison of this version") from None
