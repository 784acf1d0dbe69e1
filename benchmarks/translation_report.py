"""What the translation benchmark says: a row for each policy and budget, a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoassist.compare_result import UNIFORM, Comparison, RunResult, Saving
from autoassist.compare_statistics import Curve, mean_sd, saving
from benchmarks.common import print_table
from benchmarks.translation_scores import RunScores
from protocol.report import read_report

RESULT_FILE, COMPARISON = "translation.json", "compare"
DEFAULT = "autoassist"
NAMES = {"wall_s": ("wall_saving", ""), "tokens": ("token_saving", "token_")}
"""Of a cost: the name of its saving, and what stands before low and high."""
GOAL = 0.3
"""Wall time that is to be saved at equal BLEU."""

Row = dict[str, Any]
Scores = Mapping[str, RunScores]


def rows_of(comparison: Comparison, scores: Scores) -> list[Row]:
    """Savings at equal BLEU are against uniform's curve over its budgets; ``low … high`` is that of wall time's."""
    curves = {cost: _curve(comparison, scores, cost) for cost in ("wall_s", "tokens")}
    rows = []
    for policy in comparison.policies:
        for budget in comparison.budgets:
            runs = _runs(comparison, policy, budget)
            if not runs:
                continue
            bleu, bleu_sd = mean_sd(_column(runs, scores, "bleu"))
            row: Row = {"policy": policy, "budget": budget, "seeds": len(runs), "bleu": bleu, "bleu_sd": bleu_sd}
            row |= {name: mean_sd(_column(runs, scores, name))[0] for name in ("chrf", "loss", "tokens", "wall_s")}
            row |= {"metric_runs": [scores[run.run_dir].bleu for run in runs], "seed_list": comparison.seeds}
            row |= _saving(curves, runs, scores, "wall_s")
            row |= _saving(curves, runs, scores, "tokens")
            rows.append(row)
    return rows


def _runs(comparison: Comparison, policy: str, budget: float) -> list[RunResult]:
    found = [run for run in comparison.runs if (run.policy, run.budget) == (policy, budget)]
    return sorted(found, key=lambda run: run.seed)


def _column(runs: Sequence[RunResult], scores: Scores, name: str) -> np.ndarray:
    return np.array([getattr(scores[run.run_dir], name) for run in runs], dtype=np.float64)


def _curve(comparison: Comparison, scores: Scores, cost: str) -> Curve:
    """Uniform's points, by rising budget."""
    cells = [_runs(comparison, UNIFORM, budget) for budget in sorted(comparison.budgets)]
    return Curve(
        costs=np.stack([_column(runs, scores, cost) for runs in cells]),
        metrics=np.stack([_column(runs, scores, "bleu") for runs in cells]),
    )


def _saving(curves: Mapping[str, Curve], runs: Sequence[RunResult], scores: Scores, cost: str) -> Row:
    """Null for uniform, and where uniform does better already with its least budget."""
    found = Saving(value=None, low=None, high=None, has_interval=False, at_least=False)
    if runs[0].policy != UNIFORM:
        found = Saving.of(*saving(curves[cost], _column(runs, scores, cost), _column(runs, scores, "bleu")))
    name, prefix = NAMES[cost]
    ends = {f"{prefix}low": found.low, f"{prefix}high": found.high}
    return {name: found.value, **ends, f"{name}_at_least": found.at_least}


def write_rows(
    path: Path, rows: Sequence[Row], comparison: Comparison, scores: Scores, *, out: Path, **facts: Any
) -> None:
    """``translation.json``, atomically; ``out`` is the benchmark's directory."""
    first = comparison.runs[0].run_dir
    signatures = {name: getattr(scores[first], name) for name in ("bleu_signature", "chrf_signature")}
    report = read_report(out / COMPARISON / first)
    try:
        machine = json.loads((out / "machine.json").read_text())
    except (OSError, ValueError):
        machine = {"machine": "unknown", "load": None}
    content = {
        "schema_version": 1,
        **facts,
        "epochs": comparison.epochs,
        "n": comparison.n,
        "options": comparison.options,
        **signatures,
        **machine,
        "versions": report.versions,
        "dataset_id": report.dataset_id,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def print_rows(rows: Sequence[Row]) -> None:
    """The table for docs/RESULTS.md, and what the default policy reaches of the goal."""
    heading = ("policy", "passes", "BLEU", "chrF", "validation loss", "M tokens", "Boss, s")
    print_table((*heading, "wall time saved, %", "tokens saved, %"), [_words(row) for row in rows])
    ours = [row["wall_saving"] for row in rows if row["policy"] == DEFAULT and row["wall_saving"] is not None]
    best = _percent(max(ours, default=None))
    print(f"\n{DEFAULT} saves at most {best} % of the wall time; the goal is {100 * GOAL:.0f} %.")


def _words(row: Row) -> list[str]:
    spread = "" if row["bleu_sd"] is None else f" ± {row['bleu_sd']:.2f}"
    return [
        f"**{row['policy']}**" if row["policy"] == DEFAULT else row["policy"],
        f"{row['budget']:g}",
        f"{row['bleu']:.2f}{spread}",
        f"{row['chrf']:.1f}",
        f"{row['loss']:.3f}",
        f"{row['tokens'] / 1e6:.2f}",
        f"{row['wall_s']:.0f}",
        "-" if row["policy"] == UNIFORM else _interval(row, "wall_saving", ""),
        "-" if row["policy"] == UNIFORM else _interval(row, "token_saving", "token_"),
    ]


def _interval(row: Row, name: str, prefix: str) -> str:
    """``33 (28 … 37)``, ``≥ 40``, ``none``."""
    text = ("≥ " if row[f"{name}_at_least"] else "") + _percent(row[name])
    if row["seeds"] == 1:
        return text
    return f"{text} ({_percent(row[f'{prefix}low'])} … {_percent(row[f'{prefix}high'])})"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.0f}"
