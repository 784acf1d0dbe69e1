"""The linear SVM benchmark: its optimum is one, its methods follow their formulas, its figures are what they say."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import linear_svm
from benchmarks.linear_svm import LinearSvm, gaps, late_gap, price, record
from benchmarks.svm_methods import METHODS, Method, Trace, descend, marks, one_pass, slope, utility
from benchmarks.svm_problem import Optimum, Problem, Utility, optimum
from workloads.adult import Adult
from workloads.binary_coding import BinarySet, breast_cancer_set

PLAIN, *_, BY_GRADIENT = METHODS


@pytest.fixture(scope="module")
def table() -> BinarySet:
    return breast_cancer_set()


@pytest.fixture(scope="module")
def problem(table: BinarySet) -> Problem:
    return Problem.of(table.train_features, table.train_labels, 0.01)


@pytest.fixture(scope="module")
def best(problem: Problem) -> Optimum:
    return optimum(problem)


def test_the_optimum_is_proved_by_its_dual_and_is_liblinear_s(
    table: BinarySet, problem: Problem, best: Optimum
) -> None:
    from sklearn.svm import LinearSVC

    assert 0 <= best.duality_gap <= 1e-9
    svm = LinearSVC(loss="hinge", C=0.01, fit_intercept=False, tol=1e-6, max_iter=100_000)
    theirs = svm.fit(table.train_features, table.train_labels).coef_[0]
    assert best.value <= problem.objective(theirs) + 1e-9
    assert problem.objective(theirs) == pytest.approx(best.value, rel=1e-4)


def test_a_precision_out_of_reach_is_said(problem: Problem) -> None:
    with pytest.raises(ValueError, match=r"precision=0\.0 is not reached; the duality gap is"):
        optimum(problem, precision=0.0)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_utilities_are_value_and_subgradient_norm_of_an_instance_s_own_objective(
    problem: Problem, kind: Utility
) -> None:
    w = np.random.default_rng(1).normal(size=150) / 10
    found, margins, norm2 = problem.utilities(w, kind), problem.rows @ w, float(w @ w)
    assert (margins < 1).any() and (margins > 1).any()
    for i in range(len(problem.rows)):
        subgradient = problem.lam * w - (problem.rows[i] if margins[i] < 1 else 0.0)
        value = max(0.0, 1.0 - margins[i]) + problem.lam / 2 * norm2
        expected = value if kind == "loss" else float(np.linalg.norm(subgradient))
        assert found[i] == pytest.approx(expected)
        assert utility(kind, margins[i], problem.lam, norm2, problem.squares[i]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_importance_weights_leave_the_mean_as_it_is(problem: Problem, kind: Utility) -> None:
    """E[weight · f_i] over the draws is the mean of f_i, for any f; and no weight exceeds 2."""
    w = np.random.default_rng(1).normal(size=150) / 10
    rng, total, f, n = np.random.default_rng(2), 0.0, np.random.default_rng(3).random(456), 456
    for _ in range(400):
        ids, weights, _ = one_pass(problem, Method("x", importance=kind), w, rng)
        assert max(weights) <= 2.0  # type: ignore[type-var]
        total += float(np.dot(list(weights), f[ids])) / n
    assert total / 400 == pytest.approx(f.mean(), rel=0.01)


def test_plain_sgd_is_its_formula(problem: Problem) -> None:
    """w ← (1 - ηλ) w + η y x where the margin is below 1, η = 1/(λ (k + n))."""
    trace = descend(problem, PLAIN, [100], epsilon=1.0, base=0.3, seed=7)
    w, n = np.zeros(150), len(problem.rows)
    for k, i in enumerate(np.random.default_rng(7).permutation(n)[:100]):
        gradient = problem.lam * w - (problem.rows[i] if problem.rows[i] @ w < 1 else 0.0)
        w = w - gradient / (problem.lam * (k + n))
    assert np.allclose(trace.w, w)
    assert (trace.updates, trace.presented) == ([100], [100])


def test_shrinking_skips_exactly_what_is_below_the_threshold(problem: Problem) -> None:
    """Algorithm 1: below T_k = ε/(k+1) an instance passes with the base probability, else always."""
    epsilon, n = 30.0, len(problem.rows)
    trace = descend(problem, BY_GRADIENT, [200], epsilon=epsilon, base=0.3, seed=7)
    rng, w, updates, skipped, lucky = np.random.default_rng(7), np.zeros(150), 0, 0, 0
    coins, order = rng.random(n), rng.permutation(n)
    for k, (i, coin) in enumerate(zip(order, coins, strict=True)):
        gradient = problem.lam * w - (problem.rows[i] if problem.rows[i] @ w < 1 else 0.0)
        if np.linalg.norm(gradient) < epsilon / (k + 1):
            if coin >= 0.3:
                skipped += 1
                continue
            lucky += 1
        w = w - gradient / (problem.lam * (k + n))
        updates += 1
        if updates == 200:
            break
    assert skipped > 10 and lucky > 2
    assert trace.presented == [updates + skipped] and np.allclose(trace.w, w)


def test_a_base_probability_of_one_and_a_threshold_of_zero_shrink_nothing(problem: Problem) -> None:
    for epsilon, base in ((1e9, 1.0), (0.0, 0.0)):
        trace = descend(problem, BY_GRADIENT, [900], epsilon=epsilon, base=base, seed=1)
        assert trace.presented == trace.updates == [900]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_comes_to_the_optimum(problem: Problem, best: Optimum, method: Method) -> None:
    trace = descend(problem, method, marks(60_000, 500), epsilon=20.0, base=0.3, seed=1)
    found = gaps(trace, best)
    assert found[-1] < found[0] / 10 and found[-1] < 5e-3
    assert all(earlier < later for earlier, later in pairwise(trace.seconds))


def test_the_slope_of_one_over_k_is_minus_one() -> None:
    updates = marks(100_000, 100)
    gap = [5.0 if k < 1000 else 7.0 / k for k in updates]
    assert slope(updates, gap, 1000) == pytest.approx(-1.0)


def test_marks_rise_to_the_last_update() -> None:
    found = marks(1000, 10)
    assert found[0] == 10 and found[-1] == 1000 and all(a < b for a, b in pairwise(found))
    assert marks(5, 100) == [5]


def test_the_price_of_a_gap_is_the_first_mark_that_reaches_it(best: Optimum) -> None:
    trace = Trace([10, 20, 30], [10, 20, 30], [0.1, 0.2, 0.3], [best.value + gap for gap in (0.5, 0.1, 0.05)])
    assert price(trace, best, 0.1 + 1e-12) == (20, 0.2)
    assert price(trace, best, 0.01) is None


def test_a_late_gap_is_the_mean_of_the_last_marks_within_the_time(best: Optimum) -> None:
    found = [1.0, 0.5, *[0.1] * 3, 0.1 * 64, 0.01, 0.01]
    trace = Trace(list(range(1, 9)), [], [float(i) for i in range(8)], [best.value + gap for gap in found])
    assert late_gap(trace, best) == pytest.approx((0.1**4 * 64 * 0.01**2) ** (1 / 6))
    assert late_gap(trace, best, 1.5) == pytest.approx(0.5**0.5)


class Packaged(Adult):
    """The packaged set, without asking any source."""

    def load_table(self) -> BinarySet:
        return breast_cancer_set()


def test_the_benchmark_prints_a_row_for_each_method_and_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(linear_svm, "Adult", Packaged)
    settings = LinearSvm(updates=2000, seeds=(1, 2), epsilon=20.0, target=1e-9, json=tmp_path / "x.json")
    linear_svm.main(dataclasses.replace(settings, plot=tmp_path / "plots" / "x.png"))
    printed = capsys.readouterr().out
    assert [line.split(" | ")[0][2:] for line in printed.splitlines()[-5:]] == [method.name for method in METHODS]
    assert printed.splitlines()[-1].count("not reached") == 2
    assert (tmp_path / "plots" / "x.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "x.json").read_text())
    assert [(run["method"], run["seed"]) for run in written["runs"]] == [(m.name, s) for m in METHODS for s in (1, 2)]
    for run in written["runs"]:
        assert len(run["updates"]) == len(run["presented"]) == len(run["seconds"]) == len(run["gap"])
    assert written["settings"]["epsilon"] == 20.0 and written["dataset"].startswith("breast-cancer-train:")


def test_the_record_has_no_paths_in_it(problem: Problem, best: Optimum) -> None:
    """It can be committed."""
    assert not {"json", "plot"} & record(LinearSvm(json=Path("/x")), problem, best, {}, "x")["settings"].keys()
