"""``autoassist run table``: a CSV of the user's trains in one line, and every mistake is one line with code 2."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.processes.conftest import Here
from tests.processes.roles import Role, roles, start_broker

pytestmark = pytest.mark.processes
MANY = 600
"""Epochs, some seconds in all, of what must not be over before it is stopped."""


@pytest.fixture
def people(tmp_path: Path) -> Path:
    rows = [f"{i % 97},{'abc'[i % 3]},{'yes' if i % 97 > 40 + 5 * (i % 3) else 'no'}" for i in range(600)]
    path = tmp_path / "people.csv"
    path.write_text("\n".join(["age,city,rich", *rows]) + "\n")
    return path


def test_a_table_trains_in_one_line(people: Path, tmp_path: Path) -> None:
    words = ("--data", "people.csv", "--label", "rich", "--epochs", "4", "--run-dir", str(tmp_path / "run"))
    run = Role("run", "table", *words, cwd=people.parent)
    assert run.end() == 0, run.text
    report = read_report(tmp_path / "run")
    assert (report.status, report.workload, report.n) == ("finished", "table", 481)
    assert report.metric.name == "validation_accuracy" and (report.metric.value or 0.0) > 0.85


def test_a_stopped_run_is_resumed_from_another_folder(people: Path, tmp_path: Path) -> None:
    """The table is remembered by its full path."""
    elsewhere, run_dir = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    words = ("--data", "people.csv", "--label", "rich", "--epochs", str(MANY), "--run-dir", str(run_dir))
    with roles() as start:
        run = start("run", "table", *words, cwd=people.parent)
        run.wait_for("epoch 1:")
        run.terminate()
        assert run.end() == 128 + signal.SIGTERM, run.text
        resumed = start("run", "--resume", str(run_dir), cwd=elsewhere)
        assert resumed.end() == 0, resumed.text
    report = read_report(run_dir)
    assert (report.status, report.selection.offered) == ("finished", MANY * 481)


MISTAKES = {
    "no such column": (["--label", "riches"], "no column 'riches'; did you mean 'rich'?"),
    "no label": ([], "label is missing; give --label one of the columns of "),
    "one class": (["--label", "same"], "'1' in every row; there is nothing to learn"),
    "a missing file": (["--data", "nowhere.csv", "--label", "rich"], "--data nowhere.csv: No such file or directory"),
    "no rows": (["--data", "empty.csv", "--label", "rich"], "--data empty.csv: no rows"),
    "too few for a batch": (["--label", "rich"], "batch_size=64: exceeds the data set's 16 instances"),
}


@pytest.mark.parametrize("words, complaint", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, words: list[str], complaint: str, here: Here
) -> None:
    rows = [f"{i},1,{'no' if i % 2 else 'yes'}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["age,same,rich", *rows]) + "\n")
    (tmp_path / "empty.csv").write_text("age,rich\n")
    before = set(tmp_path.iterdir())
    data = [] if "--data" in words else ["--data", "t.csv"]
    ended = here("run", "table", *data, *words, cwd=tmp_path)
    assert ended.code == 2, ended.text
    (error,) = [line for line in ended.said if line.startswith("error:")]
    assert complaint in error and "Traceback" not in ended.text
    assert set(tmp_path.iterdir()) == before


def test_an_assistant_with_another_file_is_refused(people: Path, tmp_path: Path) -> None:
    """Its IDs would mean other rows."""
    other = tmp_path / "other.csv"
    other.write_text(people.read_text().replace("40,a", "41,a"))
    with roles() as start:
        _, address, _ = start_broker(start, tmp_path / "run")
        words = ("table", "--broker", address, "--label", "rich", "--data")
        boss = start("boss", *words, str(people), "--epochs", "100000")
        boss.wait_for("epoch 0:")
        stranger = start("assistant", *words, str(other))
        assert stranger.end() == 2, stranger.text
        assert "table-train:" in stranger.text
        mate = start("assistant", *words, str(people))
        mate.wait_for("joined the run")
