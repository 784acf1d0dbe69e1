"""The savings benchmark: what it runs, what it keeps, what its table says; on made-up comparisons."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import msgspec
import pytest
import tyro

from autoassist.compare import CompareCommand
from autoassist.compare_result import Comparison, RunResult, make_cells, write_comparison
from benchmarks import savings
from benchmarks.savings import BUDGETS, EPOCHS, POLICIES, Savings, complete, main, words_of
from benchmarks.savings_report import NOT_LOOKING_AHEAD
from protocol.report import REPORT_FILE, encode_report
from protocol.settings import RunSettings
from tests.unit.autoassist.made_up import comparison_of, report_of

UNIFORM = {1.0: 0.960, 0.8: 0.950, 0.6: 0.930, 0.4: 0.880}
AT_JUDGED = {"random-drop": 0.930, "autoassist": 0.955, "infobatch": 0.700, "oracle": 0.970}


def made_up(settings: Savings, workload: str, **changes: object) -> Comparison:
    """Of all policies; those that are not named above do as uniform does."""
    runs = []
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    for policy, seed, budget in itertools.product(settings.policies, seeds, BUDGETS):
        if policy not in savings.ALL_BUDGETS and budget != 0.6:
            continue
        metric = (AT_JUDGED.get(policy) if budget == 0.6 else None) or UNIFORM[budget]
        name, kept = f"{policy}-{budget:g}-seed{seed}", 1.0 if policy == "uniform" else 0.6
        noise = 0.0004 * (seed % 3 - 1) * (1 if policy == "uniform" else -1)
        size = {"passes": round(10_000 * budget), "kept_fraction": kept, "settings": RunSettings()}
        report = report_of(policy, seed=seed, metric=metric + noise, **size)  # type: ignore[arg-type]
        runs.append(RunResult.of(report, budget=budget, run_dir=name))
    cells = make_cells(runs, policies=settings.policies, higher_is_better=True)
    found = comparison_of(cells)
    given = {"workload": workload, "seeds": list(seeds), "epochs": settings.epochs_of(workload), "runs": runs}
    given["policies"] = list(settings.policies)
    return msgspec.structs.replace(found, **{**given, **changes})


def put(settings: Savings, workload: str, **changes: object) -> None:
    """As if it had been run to its end."""
    comparison = made_up(settings, workload, **changes)
    run_dir = settings.out / workload / comparison.runs[-1].run_dir
    run_dir.mkdir(parents=True)
    (run_dir / REPORT_FILE).write_bytes(encode_report(report_of("uniform")))
    write_comparison(comparison, settings.out / workload)


def settings_in(folder: Path, **changes: object) -> Savings:
    return Savings(**{"out": folder / "runs", "results": folder / "results", **changes})  # type: ignore[arg-type]


def read(settings: Savings) -> dict[str, object]:
    found: dict[str, object] = json.loads((settings.results / "savings.json").read_text())
    return found


def test_a_workload_is_compared_with_all_budgets_for_three_policies_and_the_judged_one_for_the_others() -> None:
    settings = Savings(options=("floor=0.2",))
    command = tyro.cli(CompareCommand, args=words_of(settings, "mnist")[1:])
    assert (command.workload, command.policies, command.budgets) == ("mnist", POLICIES, BUDGETS)
    assert {words.partition("=")[0] for words in command.only} == set(POLICIES[3:])
    assert {words.partition("=")[2] for words in command.only} == {"0.6"}
    assert (command.seeds, command.first_seed, command.epochs) == (3, 201, EPOCHS["mnist"])
    assert command.options[0] == "floor=0.2" and command.options[1].endswith("runs/savings/irreducible/mnist.npy")
    command._require_possible()


def test_in_half_the_time_all_but_uniform_run_at_the_judged_budget_alone() -> None:
    command = tyro.cli(CompareCommand, args=words_of(Savings(judged_only=True), "mnist")[1:])
    assert {words.partition("=")[0] for words in command.only} == set(POLICIES[1:])


def test_rows_say_what_the_comparison_says_and_which_workloads_are_missing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    put(settings, "mnist")
    main(settings_in(tmp_path, only_report=True))
    found = read(settings)
    assert found["is_complete"] is False
    assert found["missing_workloads"] == [name for name in EPOCHS if name != "mnist"]
    rows = {row["policy"]: row for row in found["rows"]}  # type: ignore[attr-defined]
    assert set(rows) == set(POLICIES) - {"uniform"}
    ours, oracle = rows["autoassist"], rows["oracle"]
    assert (ours["workload"], ours["seeds"], ours["seed_list"]) == ("mnist", 3, [201, 202, 203])
    assert ours["saving"] == pytest.approx(1 - 6 / 9, abs=1e-6) and ours["low"] < ours["saving"] < ours["high"]
    assert ours["wall_saving"] == pytest.approx(1 - 6 / 9, abs=1e-6) and ours["metric"] == pytest.approx(0.955)
    assert ours["oracle_saving"] == oracle["saving"] == pytest.approx(0.4) and oracle["at_least"]
    assert ours["share_of_oracle"] == pytest.approx((1 - 6 / 9) / 0.4)
    assert ours["better_than_random_drop"] is True and rows["infobatch"]["better_than_random_drop"] is False
    assert rows["infobatch"]["saving"] is None and rows["infobatch"]["low"] is None
    assert {"machine", "load", "versions"} <= set(ours)
    assert len(found["curves"]) == 3 * 4 + 6  # type: ignore[arg-type]


def test_the_table_marks_what_is_better_than_random_drop_and_counts_the_goals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in(tmp_path, only_report=True)
    put(settings, "mnist")
    main(settings)
    text = capsys.readouterr().out
    (ours,) = [line for line in text.splitlines() if "**autoassist**" in line]
    assert "| mnist | **autoassist** | 33 (3" in ours and "95.50 ± 0.04" in ours and "+2.50* |" in ours
    assert any("infobatch | none (none … none)" in line for line in text.splitlines())
    assert "autoassist saves 40 % or more on 0 of 1 workloads." in text
    assert "autoassist saves 20 % or more on 1 of 1 workloads." in text


@pytest.mark.parametrize("changes", [{"seeds": [1, 2, 3]}, {"epochs": 99}, {"policies": ["uniform"]}])
def test_a_comparison_with_other_settings_is_not_complete(changes: dict[str, object], tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    put(settings, "mnist", **changes)
    assert complete(settings, "mnist") is None


def test_a_workload_that_fails_leaves_the_others_their_turn_and_a_signal_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    codes = {"fashion-mnist": 1, "rotated-mnist": 130}

    def fake(settings: Savings, workload: str) -> int:
        ran.append(workload)
        if workload not in codes:
            put(settings, workload)
        return codes.get(workload, 0)

    monkeypatch.setattr(savings, "run", fake)
    settings = settings_in(tmp_path)
    assert main(settings) == 130
    assert ran == list(EPOCHS)[:3]
    assert read(settings)["missing_workloads"] == [name for name in EPOCHS if name != "mnist"]


def test_finished_runs_of_uniform_are_taken_from_another_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(savings, "call", lambda *words: 0)
    theirs, ours = tmp_path / "theirs" / "mnist", tmp_path / "ours" / "mnist"
    for name in ("uniform-1-seed201", "uniform-0.6-seed201", "autoassist-0.6-seed201"):
        (theirs / name).mkdir(parents=True)
        (theirs / name / REPORT_FILE).write_text(f"theirs: {name}")
    (theirs / "uniform-0.8-seed201").mkdir()  # unfinished
    (ours / "uniform-0.6-seed201").mkdir(parents=True)
    settings = settings_in(tmp_path, out=ours.parent, uniform_of=theirs.parent, policies=("uniform", "autoassist"))
    assert savings.run(settings, "mnist") == 0
    assert (ours / "uniform-1-seed201" / REPORT_FILE).read_text() == "theirs: uniform-1-seed201"
    assert {path.name for path in ours.iterdir()} == {"machine.json", "uniform-1-seed201", "uniform-0.6-seed201"}
    assert not any((ours / "uniform-0.6-seed201").iterdir()), "ours has been begun, and goes on"


def test_irreducible_losses_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []

    def fake(*words: str) -> int:
        called.append(words)
        if "--output" in words:
            Path(words[-1]).parent.mkdir(parents=True, exist_ok=True)
            Path(words[-1]).write_bytes(b"losses")
        return 0

    monkeypatch.setattr(savings, "call", fake)
    settings = settings_in(tmp_path)
    assert savings.run(settings, "mnist") == savings.run(settings, "mnist") == 0
    assert [words[1] for words in called] == ["workloads.irreducible", "autoassist", "autoassist"]
    assert savings.irreducible_file(settings, "mnist").read_bytes() == b"losses"


def test_the_plot_has_a_panel_for_each_workload_and_draws_none_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = settings_in(tmp_path, only_report=True)
    put(settings, "mnist")
    put(settings, "fashion-mnist")
    main(settings)
    assert (settings.results / "savings.png").read_bytes().startswith(b"\x89PNG")
    assert all(math.isfinite(row["metric"]) for row in read(settings)["rows"])  # type: ignore[attr-defined]


def test_every_field_of_a_row_is_on_its_page(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, only_report=True)
    put(settings, "mnist")
    main(settings)
    text = (Path(__file__).resolve().parents[3] / "docs" / "COMPARE.md").read_text()
    rows = read(settings)["rows"]
    assert [name for name in rows[0] if f"`{name}`" not in text] == []  # type: ignore[index]


def test_rows_of_what_is_not_run_again_stay_with_their_own_provenance(tmp_path: Path) -> None:
    for name in ("mnist", "rotated-mnist"):
        put(settings_in(tmp_path), name)
    main(settings_in(tmp_path, only_report=True))
    before = {(row["workload"], row["policy"]): row for row in read(settings_in(tmp_path))["rows"]}  # type: ignore[attr-defined]
    changes = {"policies": savings.ALL_BUDGETS, "keep_others": True, "out": tmp_path / "again"}
    put(settings_in(tmp_path, **changes), "mnist")
    (tmp_path / "again" / "mnist" / "machine.json").write_text('{"machine": "another", "load": 9.0}')
    main(settings_in(tmp_path, only_report=True, **changes))
    after = {(row["workload"], row["policy"]): row for row in read(settings_in(tmp_path))["rows"]}  # type: ignore[attr-defined]
    assert list(after) == list(before)
    again = {place for place, row in after.items() if row["machine"] == "another"}
    assert again == {("mnist", "random-drop"), ("mnist", "autoassist")}
    assert after["mnist", "autoassist"]["share_of_oracle"] == before["mnist", "autoassist"]["share_of_oracle"]
    assert after["mnist", "infobatch"] == before["mnist", "infobatch"]
    curves: list[dict[str, object]] = read(settings_in(tmp_path))["curves"]  # type: ignore[assignment]
    places = [(row["workload"], row["policy"], row["budget"]) for row in curves]
    assert len(places) == len(set(places)) and ("mnist", "infobatch", 0.6) in places


def test_a_share_is_of_an_oracle_of_the_same_seeds_alone(tmp_path: Path) -> None:
    put(settings_in(tmp_path), "mnist")
    main(settings_in(tmp_path, only_report=True))
    changes = {"policies": savings.ALL_BUDGETS, "keep_others": True, "first_seed": 301, "out": tmp_path / "again"}
    put(settings_in(tmp_path, **changes), "mnist")
    main(settings_in(tmp_path, only_report=True, **changes))
    rows: list[dict[str, object]] = read(settings_in(tmp_path))["rows"]  # type: ignore[assignment]
    found = {row["policy"]: row for row in rows}
    assert found["autoassist"]["seed_list"] != found["oracle"]["seed_list"]
    assert found["autoassist"]["share_of_oracle"] is None and found["autoassist"]["oracle_saving"] is None
    assert found["importance"]["share_of_oracle"] is not None


def test_rows_of_a_training_of_another_length_are_not_kept_beside_new_ones(tmp_path: Path) -> None:
    for name in ("mnist", "rotated-mnist"):
        put(settings_in(tmp_path), name)
    main(settings_in(tmp_path, only_report=True))
    changes = {"policies": savings.ALL_BUDGETS, "keep_others": True, "out": tmp_path / "again"}
    put(settings_in(tmp_path, **changes), "mnist", n=20_001)
    main(settings_in(tmp_path, only_report=True, **changes))
    for part in ("rows", "curves"):
        rows: list[dict[str, object]] = read(settings_in(tmp_path))[part]  # type: ignore[assignment]
        policies = {str(row["policy"]) for row in rows if row["workload"] == "mnist"}
        assert "autoassist" in policies and policies <= set(savings.ALL_BUDGETS)
        assert {row["policy"] for row in rows if row["workload"] == "rotated-mnist"} >= set(POLICIES[1:])


def test_runs_that_did_not_look_ahead_add_rows_of_their_own(tmp_path: Path) -> None:
    put(settings_in(tmp_path), "mnist")
    main(settings_in(tmp_path, only_report=True))
    before: list[dict[str, object]] = read(settings_in(tmp_path))["rows"]  # type: ignore[assignment]
    changes = {"policies": savings.ALL_BUDGETS, "keep_others": True, "look_ahead": "off", "out": tmp_path / "without"}
    put(settings_in(tmp_path, **changes), "mnist")
    main(settings_in(tmp_path, only_report=True, **changes))
    after: list[dict[str, object]] = read(settings_in(tmp_path))["rows"]  # type: ignore[assignment]
    assert [row for row in after if row["policy"] != NOT_LOOKING_AHEAD] == before
    (added,) = (row for row in after if row["policy"] == NOT_LOOKING_AHEAD)
    assert added["share_of_oracle"] is not None and added["above_random_drop"] is not None
    for settings, choice in ((settings_in(tmp_path), "on"), (settings_in(tmp_path, **changes), "off")):
        words = words_of(settings, "mnist")
        assert words[words.index("--look-ahead") + 1] == choice
