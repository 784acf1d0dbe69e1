"""The sentence of a comparison: pays, does not pay, worse than random-drop, cannot tell; on made-up runs."""

from __future__ import annotations

import errno
import io
import itertools
import os
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from autoassist.compare_plot import plot
from autoassist.compare_result import (
    Cell,
    Comparison,
    Difference,
    RunResult,
    Saving,
    Verdict,
    make_cells,
    read_comparison,
    uniform_gain,
    write_comparison,
)
from autoassist.compare_table import print_comparison
from autoassist.compare_verdict import ORDER, judge, reference_budget
from autoassist.report.compare import comparison_page
from protocol.errors import DataError, StoreError
from tests.unit.autoassist.made_up import GAIN, comparison_of, report_of

UNIFORM = {1.0: 0.960, 0.8: 0.950, 0.6: 0.930, 0.4: 0.880}
SMALL_NOISE = (0.0, 0.0004, -0.0004)
"""A metric's noise by seed; shifted from policy to policy, so that differences have a spread."""


def run_of(policy: str, budget: float, seed: int, metric: float, *, kept: float = 1.0, room: float = 0.7) -> RunResult:
    return RunResult(
        policy=policy,
        budget=budget,
        seed=seed,
        run_dir=f"{policy}-{budget}",
        metric=metric,
        passes=round(10_000 * budget),
        wall_s=100.0 * budget,
        exposed_wait_s=0.5,
        exposed_wait_fraction=0.005 / budget,
        kept_fraction=kept,
        room=room,
    )


def cells(
    *,
    seeds: int = 3,
    kept: float = 0.7,
    room: float = 0.7,
    sign: float = 1.0,
    slower: float = 1.0,
    noise: float = 1.0,
    **metrics: float,
) -> list[Cell]:
    """Uniform at four budgets; the others, by their metric at 0.6, there and at the full budget."""
    runs = []
    policies = {"uniform": UNIFORM} | {k.replace("_", "-"): {1.0: 0.960, 0.6: v} for k, v in metrics.items()}
    for place, (policy, by_budget) in enumerate(policies.items()):
        for (budget, metric), seed in itertools.product(by_budget.items(), range(seeds)):
            noisy = sign * (metric + noise * SMALL_NOISE[(seed + place) % 3])
            run = run_of(policy, budget, seed, noisy, kept=1.0 if policy == "uniform" else kept, room=room)
            runs.append(msgspec.structs.replace(run, wall_s=run.wall_s * (slower if policy == "autoassist" else 1.0)))
    return make_cells(runs, policies=list(policies), higher_is_better=sign > 0)


def verdict(found: list[Cell], seeds: int = 3, gain: Difference = GAIN) -> tuple[str, str]:
    said = judge(found, gain, workload="mine", metric_name="test_accuracy", seeds=seeds)
    assert said.sentence.endswith(".") and "\n" not in said.sentence and ".." not in said.sentence
    return said.outcome, said.sentence


def test_selection_that_saves_and_beats_random_drop_pays() -> None:
    outcome, sentence = verdict(cells(random_drop=0.930, autoassist=0.955))
    assert outcome == "pays"
    assert sentence.startswith(
        "Selection pays on mine: autoassist with 60 % of the passes reaches test_accuracy 0.9550,"
    )
    assert "a saving of 33 % (3" in sentence and "of the wall time" in sentence and "over 3 seeds" in sentence
    assert "better than random-drop by 0.0250" in sentence


@pytest.mark.parametrize("reached", [0.0, 0.2])
def test_where_uniform_ends_at_one_metric_whatever_its_budget_there_is_no_saving_to_tell(reached: float) -> None:
    """BLEU is 0 as long as nothing is learned; a line that is flat is reached at its least budget."""
    runs = [run_of("uniform", budget, seed, 0.0) for budget in UNIFORM for seed in range(3)]
    for policy, metric in (("random-drop", 0.0), ("autoassist", reached)):
        runs += [run_of(policy, budget, seed, metric, kept=0.7) for budget in (1.0, 0.6) for seed in range(3)]
    found = make_cells(runs, policies=["uniform", "random-drop", "autoassist"], higher_is_better=True)
    assert all(cell.saving is None and cell.wall_saving is None for cell in found)
    outcome, sentence = verdict(found)
    assert outcome == "cannot-tell"
    assert "uniform reaches the same test_accuracy in all its runs" in sentence and " % of the passes" not in sentence
    with io.StringIO() as file:
        print_comparison(comparison_of(found), Console(file=file, width=80))
        assert "-50 %" not in file.getvalue() and "nan" not in file.getvalue()


def test_a_saving_of_passes_that_is_none_of_time_is_said_to_be_that() -> None:
    outcome, sentence = verdict(cells(slower=2.0, random_drop=0.930, autoassist=0.955))
    assert outcome == "pays" and sentence.startswith("Selection pays on mine in Boss passes, not in wall time here: ")
    _, sentence = verdict(cells(slower=1.505, random_drop=0.930, autoassist=0.955))
    assert "in Boss passes, and it cannot be told whether in wall time here: " in sentence


def test_a_saving_that_random_drop_has_too_does_not_count_as_selection() -> None:
    outcome, sentence = verdict(cells(random_drop=0.955, autoassist=0.955))
    assert outcome == "cannot-tell"
    assert sentence.startswith("Whether selection pays on mine cannot be told:")
    assert "not distinguishable from random-drop, random-drop 33 %; more seeds tell more" in sentence


def test_a_saving_without_random_drop_beside_it_proves_nothing() -> None:
    outcome, sentence = verdict(cells(autoassist=0.955))
    assert outcome == "cannot-tell" and "random-drop was not run beside it" in sentence


def test_worse_than_random_drop_does_not_pay_whatever_it_saves() -> None:
    outcome, sentence = verdict(cells(random_drop=0.955, autoassist=0.940))
    assert outcome == "worse-than-random-drop"
    assert sentence.startswith("Selection does not pay on mine:")
    assert "worse than dropping at random by 0.0150" in sentence


def test_no_saving_does_not_pay() -> None:
    outcome, sentence = verdict(cells(random_drop=0.920, autoassist=0.925))
    assert outcome == "does-not-pay"
    assert sentence.startswith("Selection does not pay on mine:") and "a saving of -" in sentence


def test_as_good_as_uniform_without_a_spread_does_not_pay() -> None:
    """At 60 % of the passes, a saving of 5 % would show as 0.0032."""
    found = cells(random_drop=0.930, autoassist=0.930)
    cell = next(c for c in found if (c.policy, c.budget) == ("autoassist", 0.6))
    assert cell.worth == pytest.approx(0.02 * (6000 / 0.95 - 6000) / 2000)
    outcome, sentence = verdict(found)
    assert outcome == "does-not-pay" and "a saving of 0 %" in sentence


def test_a_metric_just_below_uniforms_least_is_no_proof_of_anything() -> None:
    """Its saving is none, since no line reaches there, yet the spread leaves room for a saving."""
    found = [c for c in cells(noise=10.0, random_drop=0.929, autoassist=0.929) if c.budget in (1.0, 0.6)]
    none = Saving(value=None, low=None, high=0.0, has_interval=True, at_least=False)
    outcome, _ = verdict([msgspec.structs.replace(c, saving=none) if c.saving else c for c in found])
    assert outcome == "cannot-tell"


def test_a_metric_below_all_of_uniforms_saves_none() -> None:
    outcome, sentence = verdict(cells(random_drop=0.850, autoassist=0.860))
    assert outcome == "does-not-pay" and "a saving of none (none … none) of the passes" in sentence


def test_a_metric_above_all_of_uniforms_saves_at_least_what_it_did_not_train() -> None:
    outcome, sentence = verdict(cells(random_drop=0.930, autoassist=0.970))
    assert outcome == "pays" and "a saving of at least 40 %" in sentence


def test_a_saving_that_may_as_well_be_none_cannot_be_told() -> None:
    outcome, sentence = verdict(cells(noise=10.0, random_drop=0.928, autoassist=0.932))
    assert outcome == "cannot-tell" and "and the spread allows for either; more seeds tell more" in sentence


def test_one_seed_cannot_tell_however_good_it_looks() -> None:
    outcome, sentence = verdict(cells(seeds=1, random_drop=0.930, autoassist=0.955), seeds=1)
    assert outcome == "cannot-tell"
    assert sentence.startswith("One seed cannot tell whether selection pays on mine:")
    assert "a saving of 33 % of the passes" in sentence and sentence.endswith("; give --seeds 3 or more.")


def test_two_seeds_cannot_tell_either() -> None:
    outcome, sentence = verdict(cells(seeds=2, random_drop=0.920, autoassist=0.925), seeds=2)
    assert outcome == "cannot-tell" and sentence.startswith("Two seeds cannot tell whether selection pays on mine:")


def test_where_uniform_itself_gains_nothing_the_doubt_says_so() -> None:
    flat = Difference(value=0.001, low=-0.002, high=0.004)
    outcome, sentence = verdict(cells(noise=10.0, random_drop=0.928, autoassist=0.932), gain=flat)
    assert (
        outcome == "cannot-tell" and "0.0010 (-0.0020 … 0.0040)); fewer --epochs, or more seeds, tell more." in sentence
    )


def test_uniforms_gain_is_from_its_least_budget_to_the_full_training() -> None:
    found = uniform_gain(
        [run_of("uniform", b, s, 0.9 + b / 100 + s / 50) for b in (1.0, 0.4) for s in (2, 1)], higher_is_better=True
    )
    assert (found.value, found.low, found.high) == pytest.approx((0.006, 0.006, 0.006))


def test_a_policy_that_left_nothing_out_does_not_pay() -> None:
    outcome, sentence = verdict(cells(kept=1.0, random_drop=0.930, autoassist=0.955))
    assert outcome == "does-not-pay" and sentence.endswith("found nothing to leave out.")


def test_without_room_between_warm_up_and_anneal_nothing_can_be_told() -> None:
    outcome, sentence = verdict(cells(room=0.0, kept=1.0, random_drop=0.930, autoassist=0.955))
    assert outcome == "cannot-tell" and sentence.endswith("raise --epochs.")


def test_a_metric_of_which_less_is_better_is_turned_round() -> None:
    outcome, sentence = verdict(cells(sign=-1.0, random_drop=0.930, autoassist=0.955))
    assert outcome == "pays" and "a saving of 33 %" in sentence and "by 0.0250" in sentence


def test_nothing_but_controls_says_what_to_add() -> None:
    assert "--policies uniform random-drop autoassist" in verdict(cells())[1]
    only_full = [cell for cell in cells(autoassist=0.955) if cell.budget == 1.0]
    assert "--budgets 1.0 0.6" in verdict(only_full)[1]


def test_of_several_policies_the_best_comes_first_and_the_others_after_it() -> None:
    found = cells(random_drop=0.940, autoassist=0.925, infobatch=0.955, rho=0.940)
    said = judge(found, GAIN, workload="mine", metric_name="test_accuracy", seeds=3)
    assert (said.outcome, said.policy, said.budget) == ("pays", "infobatch", 0.6)
    assert said.by_policy == {"autoassist": "worse-than-random-drop", "infobatch": "pays", "rho": "cannot-tell"}
    assert said.sentence.endswith("; of rho it cannot be told, autoassist is worse than random-drop.")


@pytest.mark.parametrize(
    "budgets, chosen", [((1.0, 0.8, 0.6, 0.4), 0.6), ((1.0, 0.7, 0.5), 0.5), ((1.0, 0.9), 0.9), ((1.0,), None)]
)
def test_the_budget_to_judge_at_does_not_depend_on_what_was_found(
    budgets: tuple[float, ...], chosen: float | None
) -> None:
    assert reference_budget(budgets) == chosen


def printed(comparison: Comparison) -> str:
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=100))
    return stream.getvalue()


def test_the_table_marks_what_is_not_distinguishable_from_random_drop() -> None:
    text = printed(comparison_of(cells(random_drop=0.930, autoassist=0.955)))
    lines = [line for line in text.splitlines() if "0.6" in line]
    assert "≈" not in "".join(lines)
    assert "+0.0250 ± 0.0" in text and "33 % (3" in text and "Selection pays" in text
    text = printed(comparison_of(cells(random_drop=0.955, autoassist=0.955)))
    assert "≈ not distinguishable from random-drop at the same budget" in text
    assert any(line.rstrip().endswith("≈") and "33 %" in line for line in text.splitlines())


def test_savings_are_given_as_shares_of_the_oracles_which_is_not_judged_itself() -> None:
    """Uniform reaches 0.950 at 8,000 passes and 0.955 at 9,000: 25 % and 33 % are saved."""
    found = cells(noise=0.0, random_drop=0.930, autoassist=0.950, infobatch=0.850, oracle=0.955)
    shares = {cell.policy: cell.share_of_oracle for cell in found if cell.budget == 0.6}
    assert shares["autoassist"] == pytest.approx(0.75) and shares["random-drop"] == pytest.approx(0.0)
    assert (shares["uniform"], shares["infobatch"], shares["oracle"]) == (None, None, None)
    comparison = comparison_of(found)
    assert set(comparison.verdict.by_policy) == {"autoassist", "infobatch"}
    text = printed(comparison)
    assert " share" in text and "75 %" in text and "share: of what the oracle saves" in text


def test_there_is_no_share_of_an_oracle_that_saves_nothing_or_did_not_run() -> None:
    for others in ({"oracle": 0.930}, {"oracle": 0.850}, {}):
        found = cells(noise=0.0, random_drop=0.930, autoassist=0.950, **others)
        assert {cell.share_of_oracle for cell in found} == {None}
        assert "share" not in printed(comparison_of(found))


def test_the_table_explains_its_bounds_and_holes() -> None:
    text = printed(comparison_of(cells(random_drop=0.850, autoassist=0.970)))
    assert "none (none … none)" in text and "none: uniform does better" in text
    assert "≥ 40 % (" in text and "≥: better than all that uniform reaches" in text


def test_a_comparison_fits_into_eighty_columns() -> None:
    stream = io.StringIO()
    found = comparison_of(cells(random_drop=0.930, autoassist=0.955))
    print_comparison(found, Console(file=stream, width=80, force_terminal=True, color_system=None))
    lines = stream.getvalue().splitlines()[:-1]
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith(("random-drop ", "autoassist "))]
    assert len(rows) == 4 and all(line.count("±") == 2 or "%" in line for line in rows)


def test_wall_time_and_overhead_are_measured_against_uniform_at_the_same_budget() -> None:
    found = {(c.policy, c.budget): c for c in cells(random_drop=0.930, autoassist=0.955)}
    cell = found["autoassist", 0.6]
    assert cell.overhead == pytest.approx(0.0)
    assert cell.wall_saving is not None and cell.wall_saving.value == pytest.approx(1 / 3, abs=0.02)
    assert found["uniform", 0.6].saving is None and found["uniform", 0.6].against_random_drop is None


def test_a_run_without_a_finite_metric_is_named() -> None:
    with pytest.raises(DataError, match=r"^somewhere: test_accuracy is not finite at the end of a finished run"):
        RunResult.of(report_of("uniform", metric=None), budget=1.0, run_dir="somewhere")


def test_every_field_of_the_file_is_on_its_page() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "COMPARE.md").read_text()
    for kind in (Comparison, RunResult, Cell, Saving, Difference, Verdict):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in text, f"{kind.__name__}.{field}"
    for outcome in ORDER:
        assert f"`{outcome}`" in text, outcome


def test_the_file_is_read_back_as_it_was_written_and_refused_where_it_is_none(tmp_path: Path) -> None:
    found = comparison_of(cells(random_drop=0.850, autoassist=0.970))
    write_comparison(found, tmp_path)
    assert read_comparison(tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]
    (tmp_path / "compare.json").write_text('{"schema_version": 1}')
    with pytest.raises(DataError, match=r"compare.json: .*missing required field"):
        read_comparison(tmp_path)
    with pytest.raises(DataError, match=r"compare.json: No such file"):
        read_comparison(tmp_path / "nowhere")


def test_the_plot_is_drawn_with_bands_and_without(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for seeds in (1, 3):
        path = plot(comparison_of(cells(seeds=seeds, random_drop=0.930, autoassist=0.955), seeds), tmp_path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_room_to_select_leaves_out_each_policys_own_warm_up_and_the_anneal() -> None:
    """A quarter of an epoch for the default, a whole one for infobatch, of two epochs; an eighth anneals."""
    for policy, room in (("autoassist", 0.75), ("infobatch", 0.375)):
        assert RunResult.of(report_of(policy, n=500, passes=1000), budget=1.0, run_dir="x").room == pytest.approx(room)


def test_a_policy_whose_assistants_never_came_in_time_has_not_been_tried() -> None:
    found = cells(kept=1.0, random_drop=0.955, autoassist=0.955)
    late = [msgspec.structs.replace(cell, unscored_fraction=0.8) for cell in found]
    outcome, sentence = verdict(late)
    assert outcome == "cannot-tell"
    assert "no Assistant had scored 80% of what was offered in time; raise --epochs" in sentence
    some = [msgspec.structs.replace(cell, unscored_fraction=0.23, room=0.74) for cell in found]
    assert verdict(some)[0] == "cannot-tell", "a third of what lay between warm-up and anneal"
    assert verdict(found)[0] == "does-not-pay", "all was scored, and nothing found to leave out"


def test_a_policy_that_was_not_run_at_the_judged_budget_is_not_said_not_to_have_run() -> None:
    elsewhere = [cell for cell in cells(autoassist=0.955) if cell.policy == "uniform" or cell.budget == 1.0]
    _, sentence = verdict(elsewhere)
    assert "no policy that selects was run with 60 % of the passes (--only POLICY=0.6, or no --only)" in sentence
    _, sentence = verdict([cell for cell in elsewhere if cell.policy == "uniform"])
    assert "no policy that selects was run (--policies uniform random-drop autoassist)" in sentence


def test_a_set_that_stood_in_for_another_is_named_wherever_the_comparison_is(tmp_path: Path) -> None:
    found = msgspec.structs.replace(
        comparison_of(cells(random_drop=0.930, autoassist=0.955), 3), workload="mnist", fell_back_to="mnist-5k"
    )
    console = Console(record=True, width=200)
    print_comparison(found, console)
    assert "mnist (fell back to mnist-5k) · full training" in console.export_text()
    assert b"mnist (fell back to mnist-5k): does selection pay?" in comparison_page(found, tmp_path)


def test_a_result_that_finds_no_room_is_named_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(StoreError, match=f"^{tmp_path / 'compare.json'}: No space left on device; make room, and give"):
        write_comparison(comparison_of(cells(random_drop=0.930, autoassist=0.955), 3), tmp_path)
    assert not list(tmp_path.iterdir())
