"""The table over all benchmarks: goals are judged by their own side, and what was not run is left out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.limits import LIMITS, Limit, main, rows_of


@pytest.mark.parametrize(
    ("side", "value", "met"),
    [
        ("≥", 2.0, "yes"),
        ("≥", 1.9, "**no**"),
        ("<", 1.9, "yes"),
        ("<", 2.0, "**no**"),
        ("≤", 2.0, "yes"),
        ("≤", 2.1, "**no**"),
    ],
)
def test_a_goal_is_met_on_its_own_side(side: str, value: float, met: str) -> None:
    assert Limit("f", "x", "X", side, 2.0).is_met(value) == met  # type: ignore[arg-type]


def test_a_figure_has_its_spread_and_a_benchmark_that_was_not_run_no_rows() -> None:
    names = {limit.name: 1.0 for limit in LIMITS if limit.file == "startup"}
    found = list(rows_of({"startup": {**names, "values": {"broker_s": [0.4, 1.0, 1.2]}}}))
    assert found[0] == ["broker listens after, s", "1.00 (0.40 … 1.20)", "< 0.5", "**no**"]
    assert len(found) == len(names)


def test_without_any_file_the_command_says_how_to_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path) == 2
    assert "run make bench" in capsys.readouterr().err


def test_the_table_names_the_machine_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("startup", "memory"):
        names = {limit.name: 1.0 for limit in LIMITS if limit.file == file}
        content = {**names, "values": {}, "machine": f"two cores, load before {len(file)}"}
        (tmp_path / f"{file}.json").write_bytes(msgspec.json.encode(content))
    assert main(tmp_path) == 0
    said = capsys.readouterr().out
    assert said.count("two cores") == 1 and "first batch that random-drop filters" in said
