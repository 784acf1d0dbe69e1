"""The translation benchmark asks for the runs that it promises, and computes its savings from their scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoassist.compare_result import Comparison, RunResult, Verdict
from benchmarks import translation_report
from benchmarks.translation import TranslationBenchmark, fits, words_of
from benchmarks.translation_report import print_rows, rows_of, write_rows
from benchmarks.translation_scores import RunScores

BUDGETS = (1.0, 0.6)


def run(policy: str, budget: float, seed: int) -> RunResult:
    costs: dict[str, Any] = {"passes": 1, "wall_s": 1.0, "exposed_wait_s": 0.0, "exposed_wait_fraction": 0.0}
    name = f"{policy}-{budget:g}-seed{seed}"
    where = {"policy": policy, "budget": budget, "seed": seed, "run_dir": name}
    return RunResult(**where, **costs, metric=1.0, kept_fraction=1.0, room=1.0)


def comparison(seeds: int) -> Comparison:
    policies = ["uniform", "autoassist"]
    runs = [run(p, b, s) for s in range(1, seeds + 1) for p in policies for b in BUDGETS]
    facts: dict[str, Any] = {"metric_name": "test_bleu", "higher_is_better": True, "n": 10, "epochs": 2}
    verdict = Verdict(outcome="pays", policy="", budget=None, by_policy={}, sentence="")
    lists: dict[str, Any] = {"policies": policies, "budgets": list(BUDGETS), "seeds": list(range(1, seeds + 1))}
    more: dict[str, Any] = {"options": [], "only": [], "runs": runs, "cells": [], "uniform_gain": None}
    return Comparison(workload="translation", model="tiny", **facts, **lists, **more, verdict=verdict)


def scores(bleu: float, wall_s: float, tokens: int) -> RunScores:
    return RunScores(
        bleu=bleu, chrf=2 * bleu, loss=1.0, tokens=tokens, wall_s=wall_s, bleu_signature="b", chrf_signature="c"
    )


OF = {
    ("uniform", 1.0): (20.0, 100.0, 1000),
    ("uniform", 0.6): (16.0, 60.0, 600),
    ("autoassist", 1.0): (22.0, 100.0, 900),
    ("autoassist", 0.6): (18.0, 60.0, 500),
}


def by_run(seeds: int) -> dict[str, RunScores]:
    found = comparison(seeds).runs
    return {r.run_dir: scores(OF[r.policy, r.budget][0] + 0.01 * r.seed, *OF[r.policy, r.budget][1:]) for r in found}


def rows(seeds: int) -> list[dict[str, Any]]:
    return rows_of(comparison(seeds), by_run(seeds))


def test_a_row_has_what_the_results_page_reads() -> None:
    wanted = {"policy", "seeds", "bleu", "chrf", "wall_saving", "token_saving", "low", "high"}
    assert all(wanted <= set(row) for row in rows(3))
    assert [(row["policy"], row["budget"]) for row in rows(3)] == list(OF)


def test_savings_are_against_what_uniform_needs_for_the_same_bleu() -> None:
    (row,) = [row for row in rows(3) if (row["policy"], row["budget"]) == ("autoassist", 0.6)]
    assert row["wall_saving"] == pytest.approx(1 - 60 / 80)
    assert row["token_saving"] == pytest.approx(1 - 500 / 800)
    assert row["low"] <= row["wall_saving"] <= row["high"] and row["token_low"] <= row["token_saving"]


def test_above_all_that_uniform_reaches_a_saving_is_a_lower_bound() -> None:
    (row,) = [row for row in rows(3) if (row["policy"], row["budget"]) == ("autoassist", 1.0)]
    assert row["token_saving_at_least"] and row["token_saving"] == pytest.approx(0.1)


def test_one_seed_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(1)
    assert all(row["low"] is None and row["bleu_sd"] is None for row in found)
    print_rows(found)
    assert "| **autoassist** | 0.6 | 18.01 |" in capsys.readouterr().out


def test_the_file_says_where_its_figures_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Report:
        versions, dataset_id = {"torch": "2"}, "pairs-train:0"

    monkeypatch.setattr(translation_report, "read_report", lambda run_dir: Report)
    (tmp_path / "machine.json").write_text('{"machine": "two cores", "load": 0.1}')
    write_rows(tmp_path / "t.json", rows(3), comparison(3), by_run(3), out=tmp_path, size="tiny")
    content = json.loads((tmp_path / "t.json").read_text())
    assert (content["machine"], content["size"], content["dataset_id"]) == ("two cores", "tiny", "pairs-train:0")
    assert len(content["rows"]) == 4 and content["bleu_signature"] == "b"


def test_all_runs_are_cut_by_tokens_and_the_papers_policy_has_its_floor() -> None:
    words = words_of(TranslationBenchmark(device="cuda", bf16=True, size="base", seeds=2, options=("drop_rate=0.4",)))
    line = " ".join(words)
    assert line.startswith("compare translation --data ")
    assert "--set max_tokens=512 autoassist-paper:floor=0.5 drop_rate=0.4" in line
    assert "--device cuda --bf16" in line and "--model base" in line
    assert "--only random-drop=0.6 autoassist-paper=0.6 infobatch=0.6" in line


def test_pairs_with_more_words_are_left_out() -> None:
    settings = TranslationBenchmark(most_words=3)
    assert fits(("a b c", "d e"), settings) and not fits(("a b", "c d e f"), settings)
