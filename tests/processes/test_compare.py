"""``autoassist compare`` with real runs of digits: interrupted, gone on with, finished, and not run again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from autoassist.cli import main
from autoassist.compare_plot import PLOT_FILE
from autoassist.compare_progress import ProgressView
from autoassist.compare_result import Comparison, read_comparison, schema
from protocol.report import read_report
from tests.processes.launching import errors, write_workload
from tests.processes.roles import Role, roles

pytestmark = pytest.mark.processes
SIZE = ("--budgets", "1.0", "0.6", "--seeds", "1", "--epochs", "2")
POLICIES = ("--policies", "uniform", "autoassist", "--only", "autoassist=0.6")
WORDS = ("compare", "digits", *POLICIES, *SIZE, "--look-ahead", "off", "--set", "warmup_epochs=0")
NAMES = ["autoassist-0.6-seed1", "uniform-0.6-seed1", "uniform-1-seed1"]


def said(compare: Role) -> str:
    assert compare.end() == 0, compare.text
    assert not errors(compare)
    return compare.text


def test_a_comparison_goes_on_where_it_was_interrupted_and_runs_nothing_twice(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (*WORDS, "--out", str(tmp_path / "out"))
    with roles() as start:
        compare = start(*words)
        compare.wait_for("run 2 of 3 begins: uniform with 60 % of the passes, seed 1; about ")
        compare.process.send_signal(signal.SIGINT)
        assert compare.end() == 128 + signal.SIGINT, compare.text
        assert f"stopped; 1 of 3 runs are finished and kept; autoassist {' '.join(words)} goes on" in compare.text
        assert not errors(compare) and not (tmp_path / "out" / "compare.json").exists()

        text = said(start(*words))
        assert "1 of 3 runs are finished" in text and "run 1 of" not in text and "run 3 of 3 begins" in text
        assert "One seed cannot tell whether selection pays on digits: autoassist with 60 % of the passes" in text
        check(read_comparison(tmp_path / "out"), tmp_path / "out")

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    views: list[ProgressView] = []

    def view(*given: Any, **named: Any) -> ProgressView:
        views.append(ProgressView(*given, **named))
        return views[-1]

    monkeypatch.setattr("autoassist.compare.ProgressView", view)
    monkeypatch.setattr(ProgressView, "finished", lambda *_, **__: None)
    assert main(words) == 0
    assert views[0].time_left() == "about 0 s left", "finished runs are known as such before their turn"
    assert "One seed cannot tell" in capsys.readouterr().out and "3 of 3 runs are finished" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}


def check(found: Comparison, out: Path) -> None:
    """compare.json says what the reports say, and its schema holds."""
    assert sorted(path.parent.name for path in out.glob("*/report.json")) == NAMES
    assert (found.workload, found.metric_name, found.higher_is_better) == ("digits", "test_accuracy", True)
    assert (found.full_passes, found.seeds, found.budgets) == (2 * 1442, [1], [1.0, 0.6])
    for run in found.runs:
        report = read_report(out / run.run_dir)
        assert (report.status, report.seed, report.policy) == ("finished", run.seed, run.policy)
        assert run.passes == report.boss.instances == round(run.budget * 2 * 1442)
        assert (run.metric, run.wall_s) == (report.metric.value, report.boss.wall_s)
    cell = found.cell("autoassist", 0.6)
    assert cell is not None and cell.saving is not None and not cell.saving.has_interval
    assert found.verdict.outcome == "cannot-tell"
    assert set(msgspec.json.decode((out / "compare.json").read_bytes())) <= set(
        schema()["$defs"]["Comparison"]["properties"]
    )
    pytest.importorskip("matplotlib")
    assert (out / PLOT_FILE).read_bytes().startswith(b"\x89PNG")


def test_a_run_that_fails_ends_the_comparison_with_its_error_and_code(tmp_path: Path) -> None:
    source = write_workload(
        tmp_path, "losses", "if role == 'boss' and Odd.calls > 9:\n    raise ValueError('it broke')"
    )
    with roles() as start:
        compare = start("compare", source, "--policies", "uniform", "autoassist", *SIZE, "--out", str(tmp_path / "out"))
        code = compare.end()
    (error,) = [line for line in errors(compare) if line.startswith("error: ")]
    assert code == 2, compare.text
    assert error.startswith("error: uniform-1-seed1 ended with code 2: ") and "it broke" in error
    assert "0 of 4 runs are finished and kept, the same command goes on from here" in error
