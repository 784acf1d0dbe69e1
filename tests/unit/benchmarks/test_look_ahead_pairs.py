"""What the benchmark says of runs with and without looking ahead."""

from __future__ import annotations

from benchmarks.look_ahead_pairs import RUNS, WITHOUT, rows_of
from tests.unit.autoassist.made_up import report_of


def test_each_run_is_set_beside_the_one_of_the_same_seed() -> None:
    other = next(name for name in RUNS if name != WITHOUT)
    reports = {
        WITHOUT: [report_of("autoassist", metric=0.90), report_of("autoassist", metric=0.95)],
        other: [report_of("autoassist", metric=0.92), report_of("autoassist", metric=0.96)],
    }
    (without, ahead) = rows_of(reports)
    assert without[2:4] == ["-", "-"]
    assert ahead[2] == "+1.500 ± 0.500" and ahead[3].startswith("1.000 ± ")


def test_every_look_ahead_is_tried_with_cores_kept_free_and_without() -> None:
    kinds = {(look_ahead, bool(said)) for look_ahead, said in RUNS.values()}
    assert kinds == {(look_ahead, said) for look_ahead in ("on", "off") for said in (True, False)}
