"""What the savings benchmark says: rows by workload and policy, a Markdown table, a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoassist.compare_result import ORACLE, RANDOM_DROP, UNIFORM, Cell, Comparison, Saving
from autoassist.compare_verdict import REFERENCE_BUDGET
from benchmarks.common import print_table

RESULT_FILE, PLOT_FILE = "savings.json", "savings.png"
DEFAULT = "autoassist"
NOT_LOOKING_AHEAD = "autoassist, not looking ahead"
GOALS = (0.4, 0.2)
"""Savings of the default policy whose number of workloads is told."""

Row = dict[str, Any]


def rows_of(comparison: Comparison, provenance: dict[str, Any]) -> list[Row]:
    """A row for each policy but uniform, at the budget at which all are judged."""
    budget = REFERENCE_BUDGET
    oracle = comparison.cell(ORACLE, budget)
    full = comparison.cell(UNIFORM, 1.0)
    assert full is not None
    cells = [cell for cell in comparison.cells if cell.budget == budget and cell.policy != UNIFORM]
    return [
        {
            "workload": comparison.workload,
            "policy": cell.policy,
            "seeds": len(comparison.seeds),
            **_saving(cell.saving, ""),
            **_saving(cell.wall_saving, "wall_"),
            "oracle_saving": _value(oracle.saving) if oracle is not None else None,
            "share_of_oracle": cell.share_of_oracle,
            "metric": cell.metric,
            "metric_sd": cell.metric_sd,
            "metric_name": comparison.metric_name,
            "uniform_metric": full.metric,
            "budget": budget,
            "full_passes": comparison.full_passes,
            "kept_fraction": cell.kept_fraction,
            "exposed_wait_fraction": cell.exposed_wait_fraction,
            "above_random_drop": cell.against_random_drop.value if cell.against_random_drop else None,
            "better_than_random_drop": beats_random_drop(cell),
            "outcome": comparison.verdict.by_policy.get(cell.policy),
            "seed_list": comparison.seeds,
            **provenance,
        }
        for cell in cells
    ]


def curves_of(comparison: Comparison) -> list[Row]:
    """Every policy at every budget that it has."""
    return [
        {
            "workload": comparison.workload,
            "policy": cell.policy,
            "budget": cell.budget,
            "metric": cell.metric,
            "metric_sd": cell.metric_sd,
            "passes": cell.passes,
            "wall_s": cell.wall_s,
            "saving": _value(cell.saving),
            "wall_saving": _value(cell.wall_saving),
        }
        for cell in comparison.cells
    ]


def beats_random_drop(cell: Cell) -> bool | None:
    """Beyond the spread; None where the two were not compared."""
    difference = cell.against_random_drop
    return None if difference is None else difference.is_distinguishable and difference.value > 0.0


def _value(saving: Saving | None) -> float | None:
    return saving.value if saving is not None else None


def _saving(saving: Saving | None, prefix: str) -> Row:
    found = {"saving": _value(saving), "low": None, "high": None, "at_least": False}
    if saving is not None:
        found |= {"low": saving.low, "high": saving.high, "at_least": saving.at_least}
    return {f"{prefix}{name}": value for name, value in found.items()}


def write_rows(path: Path, rows: Sequence[Row], curves: Sequence[Row], missing: Sequence[str], **facts: Any) -> None:
    """``savings.json``, atomically; null for a saving is none: uniform does better with its least budget."""
    content = {
        "schema_version": 1,
        "is_complete": not missing,
        "missing_workloads": list(missing),
        **facts,
        "rows": list(rows),
        "curves": list(curves),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_rows(path: Path) -> tuple[list[Row], list[Row]]:
    """Rows and curves of an earlier ``savings.json``; none where there is no such file."""
    if not path.exists():
        return [], []
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["rows"], content["curves"]


def as_not_looking_ahead(rows: Sequence[Row], *, alone: bool) -> list[Row]:
    """Rows of runs whose Assistants did not look ahead, under that name; ``alone`` leaves out those of other
    policies."""
    named = [{**row, "policy": NOT_LOOKING_AHEAD} if row["policy"] == DEFAULT else row for row in rows]
    return [row for row in named if row["policy"] == NOT_LOOKING_AHEAD or not alone]


def merged(new: Sequence[Row], earlier: Sequence[Row], policies: Sequence[str]) -> list[Row]:
    """The new rows, and of the earlier ones those of policies that were not run again, each with its own provenance."""
    again = {(row["workload"], row["policy"]) for row in new}
    rows = [*(row for row in earlier if (row["workload"], row["policy"]) not in again), *new]
    workloads = list(dict.fromkeys(row["workload"] for row in (*earlier, *new)))

    def place(row: Row) -> tuple[int, int, float]:
        policy = row["policy"]
        rank = policies.index(policy) if policy in policies else len(policies)
        return workloads.index(row["workload"]), rank, -row["budget"]

    return sorted(rows, key=place)


def trained_otherwise(rows: Sequence[Row], earlier: Sequence[Row]) -> set[str]:
    """Workloads whose full training has another length in the earlier rows, which compare with no new one."""
    passes = {row["workload"]: row["full_passes"] for row in rows}
    return {row["workload"] for row in earlier if row["full_passes"] != passes.get(row["workload"], row["full_passes"])}


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Each saving as a share of the oracle's too, where the oracle was run another time, but with the same seeds: with
    others it has saved three times as much."""
    oracle = {row["workload"]: row for row in rows if row["policy"] == ORACLE}
    found = []
    for row in rows:
        theirs, saving = oracle.get(row["workload"]), row["saving"]
        best = theirs["saving"] if theirs is not None and theirs["seed_list"] == row["seed_list"] else None
        share = saving / best if saving is not None and best and best > 0.0 and theirs is not row else None
        found.append({**row, "oracle_saving": best, "share_of_oracle": share})
    return found


def print_rows(rows: Sequence[Row], missing: Sequence[str]) -> None:
    """The table for docs/RESULTS.md, and what the default policy reaches of its goals."""
    heading = ("workload", "policy", "passes saved, %", "of the oracle's, %", "wall time saved, %", "metric, %")
    print_table((*heading, "above random-drop, points"), [_words(row) for row in rows])
    print(f"\nAt {REFERENCE_BUDGET:g} of the passes; 95 % intervals and ± s.d. over the seeds; * beyond the spread.")
    for name in (DEFAULT, NOT_LOOKING_AHEAD):
        ours = [row["saving"] for row in rows if row["policy"] == name]
        for goal in GOALS if ours else ():
            reached = sum(saving is not None and saving >= goal for saving in ours)
            print(f"{name} saves {100 * goal:.0f} % or more on {reached} of {len(ours)} workloads.")
    if missing:
        print(f"Not complete: {', '.join(missing)}.")


def _words(row: Row) -> list[str]:
    share, above = row["share_of_oracle"], row["above_random_drop"]
    star = "*" if row["better_than_random_drop"] else ""
    spread = "" if row["metric_sd"] is None else f" ± {100 * row['metric_sd']:.2f}"
    return [
        row["workload"],
        f"**{row['policy']}**" if row["policy"] in (DEFAULT, NOT_LOOKING_AHEAD) else row["policy"],
        _interval(row, ""),
        "-" if share is None else f"{100 * share:.0f}",
        _interval(row, "wall_"),
        f"{100 * row['metric']:.2f}{spread}",
        "-" if above is None else f"{100 * above:+.2f}{star}",
    ]


def _interval(row: Row, prefix: str) -> str:
    """``33 (28 … 37)``, ``≥ 40``, ``none``."""
    value, low, high = (row[prefix + name] for name in ("saving", "low", "high"))
    text = _percent(value)
    if row[prefix + "at_least"]:
        text = f"≥ {text}"
    return text if row["seeds"] == 1 else f"{text} ({_percent(low)} … {_percent(high)})"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.0f}"


def plot_rows(path: Path, rows: Sequence[Row]) -> None:
    """A panel for each workload: the saving of each policy with its interval; needs matplotlib, but no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    figure = Figure(figsize=(1.5 + 2.6 * len(workloads), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(workloads), sharey=True, squeeze=False)[0]
    for axes, workload in zip(panels, workloads, strict=True):
        axes.set_title(workload, fontsize=9)
        axes.axvline(0.0, color="0.7", linewidth=0.8)
        for row in (row for row in rows if row["workload"] == workload):
            _draw(axes, policies.index(row["policy"]), row)
        axes.set_xlabel("passes saved, %")
    panels[0].set_yticks(range(len(policies)), policies)
    panels[0].invert_yaxis()
    figure.suptitle(f"saving at equal metric, at {REFERENCE_BUDGET:g} of the passes; x: none", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    figure.savefig(part, dpi=130, format="png")
    part.replace(path)


def _draw(axes: Any, place: int, row: Row) -> None:
    colour = {DEFAULT: "C3", NOT_LOOKING_AHEAD: "C3", ORACLE: "C2", RANDOM_DROP: "0.5"}.get(row["policy"], "C0")
    if row["saving"] is None:
        axes.plot([0.0], [place], marker="x", color=colour)
        return
    low, high = ((row[end] if row[end] is not None else -math.inf) for end in ("low", "high"))
    value = 100 * row["saving"]
    reach = [max(0.0, value - 100 * low), max(0.0, 100 * high - value)]
    finite = all(math.isfinite(end) for end in reach) and row["seeds"] > 1
    axes.errorbar([value], [place], xerr=[[reach[0]], [reach[1]]] if finite else None, marker="o", color=colour)
